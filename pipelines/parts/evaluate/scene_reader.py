"""Reads the scene out of a clip of the embedded shapes in their plain look: single frames by a bank of drawings, then
the motion through the middle one by least squares.

What was read is drawn anew; how near that comes says how far the clip is a picture of that world.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor

from pipelines.data.shape_drawing import MOTIONS, Places, Scene, goes_to_and_fro, rate_name, shares
from pipelines.data.synthetic import BACKGROUNDS, LOOKS, plain_paint

LOOK = LOOKS["plain"]
BANK_SIZE, NUM_KEYS = 16, 9  # pixels of the drawings in the bank; frames that are looked at, an odd number
ANGLES, PHASES = 24, 6  # of the bank
RATES = (0.25, 0.75)  # that are tried at first, as shares of their range
STARTS, MOTIONS_EACH = 3, 2  # of a search, and motions of each that are followed
SEARCH_SIZE = 32  # pixels of the frames that motions are searched in
ROUNDS, SLACK = 8, 0.25  # of least squares; how far beyond its range a rate may be read, in ranges
STEPS = {"x": 2e-3, "y": 2e-3, "angle": 0.02, "size_phase": 5e-3, "rate": 0.0}  # of finite differences
SWEEPS = {"angle": (2 * torch.pi, 24), "size_phase": (1.0, 12)}  # what is tried all over after that, in so many steps
CLIPS_AT_ONCE = 8


@dataclass(frozen=True)
class Readings:
    """What n clips seem to show."""

    places: Places  # at the middle frame
    background: Tensor  # (n,) int64, position in BACKGROUNDS
    fidelity: Tensor  # (n,) dB: energy of the drawn shape over that of all differences to it; 0 where there is none

    @property
    def motions(self) -> list[str]:
        """The class that each clip shows."""
        return [list(MOTIONS)[number] for number in self.places.motion.tolist()]


@torch.inference_mode()
def read_scenes(video_uint8: Tensor) -> Readings:
    """What each clip (n, t, h, w, 3) uint8 shows, whatever was asked for; h = w."""
    return join([_read(part) for part in video_uint8.split(CLIPS_AT_ONCE)])


def join(found: Sequence[Readings]) -> Readings:
    """Those of several sets of clips as one."""
    columns = zip(*(vars(one.places).values() for one in found), strict=True)
    return Readings(
        Places(*(torch.cat(column) for column in columns)),
        *(torch.cat([getattr(one, name) for one in found]) for name in ("background", "fidelity")),
    )


def draw(places: Places, background: Tensor, times: Tensor, resolution: int, softness: float) -> Tensor:
    """Scenes in their colours, (n, t, h, w, 3) in [0, 1]."""
    behind, colours = _palette(resolution)
    behind = rearrange(behind[background], "n h w c -> n 1 h w c")
    seen = shares(places, times, resolution, LOOK.sizes, softness)
    own = rearrange(colours[places.shape], "n two c -> n 1 1 1 two c")
    return behind + (seen[..., None] * (own - behind[..., None, :])).sum(dim=-2)


def _read(video_uint8: Tensor) -> Readings:
    """One batch of clips."""
    num_clips, num_frames, resolution = video_uint8.shape[:3]
    video = video_uint8.float() / 255
    frames = torch.linspace(0, num_frames - 1, NUM_KEYS).round()
    middle = frames[NUM_KEYS // 2]
    times, all_times = frames - middle, torch.arange(num_frames, dtype=torch.float32) - middle
    keys = video[:, frames.long()]  # (n, k, h, w, 3)
    errors = (keys[:, None] - _palette(resolution)[0][:, None]).abs().mean(dim=-1)  # (n, backgrounds, k, h, w)
    background = errors.flatten(2).median(dim=2).values.argmin(dim=1)  # a shape covers less than half
    small = _shrink(keys, SEARCH_SIZE)
    places = _starts(_shrink(keys, BANK_SIZE), background)
    small, few = small[:, ::2], times[::2]  # enough for a search
    places = _candidates(places, background, small, few)  # (n s m,)
    for name, each in ((None, MOTIONS_EACH), ("angle", 1), ("size_phase", STARTS)):
        count = len(places.x) // num_clips
        many = repeat(background, "n -> (n c)", c=count)
        targets = repeat(small, "n k h w rgb -> (n c) k h w rgb", c=count)
        if name is None:
            places, error = _fit(places, many, targets, few, softness=2.0)
        else:
            places, error = _swept(places, name, many, targets, few, softness=2.0)
        best = rearrange(error, "(n c) -> n c", c=each).argmin(dim=1)
        best += torch.arange(len(best)) * each
        places = places[best]
    places, _ = _fit(places, background, keys, times, softness=1.5)
    drawn = draw(places, background, all_times, resolution, 1.0)
    behind = rearrange(_palette(resolution)[0][background], "n h w c -> n 1 h w c")
    # beside the shape's own energy: an empty background is no good picture of a small or a pale shape
    energy, error = ((drawn - other).square().flatten(1).sum(dim=1) for other in (behind, video))
    return Readings(places, background, 10 * torch.log10(energy.clamp(min=1e-6) / error.clamp(min=1e-6)))


@lru_cache
def _palette(resolution: int) -> tuple[Tensor, Tensor]:
    """Backgrounds (b, h, w, 3) and the pairs of colours of the shapes (s, 2, 3), in [0, 1]."""
    some = LOOK.shapes[0]
    backgrounds = [plain_paint(number, some, resolution).background for number in range(len(BACKGROUNDS))]
    paints = [plain_paint(0, shape, resolution) for shape in LOOK.shapes]  # the first of SHAPES, in their order
    pairs = [torch.stack([torch.from_numpy(paint.body), torch.from_numpy(paint.second)]) for paint in paints]
    return torch.stack([torch.from_numpy(one) for one in backgrounds]), torch.stack(pairs)


def _shrink(video: Tensor, size: int) -> Tensor:
    """(n, t, h, w, 3) -> (n, t, size, size, 3), averaged over areas."""
    frames = rearrange(video, "n t h w c -> (n t) c h w")
    return rearrange(F.interpolate(frames, size=(size, size), mode="area"), "(n t) c h w -> n t h w c", n=len(video))


def _rate_ranges() -> Tensor:
    """(motions, 2): the smallest and the largest rate of every motion, without its sign, in the units of `Scene`."""
    units = {"speed": 1 / 64, "turn": torch.pi / 180, "growth": 1.0}
    names = [rate_name(motion) for motion in MOTIONS]
    return torch.tensor([[end * units[name] for end in getattr(LOOK, name)] for name in names])


@lru_cache
def _bank() -> tuple[Places, Tensor, Tensor]:
    """Single frames in the middle of the picture, in all shapes, angles and sizes (m,); the transforms
    (m, 2, h, w / 2 + 1) of their shares, and the products of these (m, 2, 2)."""
    kinds = product(LOOK.shapes, range(ANGLES), range(PHASES))
    scenes = [
        Scene(shape, 0.5, 0.5, 2 * torch.pi * angle / ANGLES, (phase + 0.5) / PHASES, 0.0, 0.0, 0.0)
        for shape, angle, phase in kinds
    ]
    places = Places.of(scenes, [LOOK.motions[0]] * len(scenes))
    seen = rearrange(shares(places, torch.zeros(1), BANK_SIZE, LOOK.sizes), "m 1 h w two -> m two h w")
    return places, torch.fft.rfft2(seen), einsum(seen, seen, "m i h w, m j h w -> m i j")


def _starts(keys: Tensor, background: Tensor) -> Places:
    """The shapes that fit all frames of each clip best, and how they stand in the middle one.

    The best shape; the same turned round, for one of its colours may be hard to see on the background; the second best.
    keys: (n, k, 16, 16, 3). Returns places (n s,), without a motion.
    """
    bank, transforms, products = _bank()
    behind, colours = _palette(BANK_SIZE)
    differences = torch.fft.rfft2(rearrange(keys - behind[background][:, None], "n k h w c -> n k c h w"))
    num_shapes, middle = len(LOOK.shapes), keys.shape[1] // 2
    transforms, products = (  # the bank is sorted by shape
        rearrange(one, "(shape m) ... -> shape m ...", shape=num_shapes) for one in (transforms, products)
    )
    found, moves = [], []
    for one, number in zip(differences, background.tolist(), strict=True):
        weights = colours - behind[number].mean(dim=(0, 1))  # (s, 2, 3): as if the background had one colour
        painted = einsum(weights.to(one.dtype), one, "s two c, k c h w -> s k two h w")
        overlap = torch.fft.irfft2(
            einsum(painted, transforms.conj(), "s k two h w, s m two h w -> s k m h w"), s=(BANK_SIZE, BANK_SIZE)
        )
        best, move = overlap.flatten(3).max(dim=3)  # (s, k, m) over all places
        energy = einsum(weights, weights, products, "s i c, s j c, s m i j -> s m")
        error = energy[:, None] - 2 * best  # (s, k, m)
        shape = error.amin(dim=2).sum(dim=1).argsort()[:2]
        of_angle = rearrange(error[shape, middle], "s (angle phase) -> s angle phase", phase=PHASES)
        offset = of_angle.amin(dim=2).argmin(dim=1)[:, None] - torch.arange(ANGLES)
        is_near = (offset % ANGLES).minimum(-offset % ANGLES) < ANGLES // 4  # (s, angle)
        turned = of_angle.masked_fill(is_near[..., None], torch.inf)
        entry = torch.stack([of_angle.flatten(1).argmin(dim=1), turned.flatten(1).argmin(dim=1)])  # (2, s)
        entry, shape = entry[[0, 1, 0], [0, 0, 1]], shape[[0, 0, 1]]
        found.append(entry + shape * error.shape[2])
        moves.append(move[shape, middle, entry])
    places, moved = bank[torch.cat(found)], torch.cat(moves)
    down, across = (moved // BANK_SIZE) / BANK_SIZE, (moved % BANK_SIZE) / BANK_SIZE
    return replace(places, x=(places.x + across) % 1, y=(places.y + down) % 1)


def _candidates(places: Places, background: Tensor, keys: Tensor, times: Tensor) -> Places:
    """The motions through each start that are nearest to its clip, of different classes or directions.

    places: (n s,). keys: (n, k, h, w, 3). Returns places (n c,).
    """
    ranges, ways = _rate_ranges().tolist(), []
    for motion in LOOK.motions:
        number = list(MOTIONS).index(motion)
        low, high = ranges[number]
        for sign in (1, -1) if goes_to_and_fro(motion) else (1,):
            ways += [(number, sign * (low + share * (high - low))) for share in RATES]
    numbers, rates = (torch.tensor(column) for column in zip(*ways, strict=True))
    num_ways, resolution, count = len(ways), keys.shape[2], len(places.x)
    tried = places[torch.arange(count).repeat_interleave(num_ways)]
    tried = replace(tried, motion=numbers.repeat(count), rate=rates.repeat(count))
    of_clip = torch.arange(len(keys)).repeat_interleave(count // len(keys) * num_ways)
    error = torch.cat(
        [
            (draw(tried[rows], background[of_clip[rows]], times, resolution, 2.0) - keys[of_clip[rows]])
            .square()
            .flatten(1)
            .mean(dim=1)
            for rows in torch.arange(len(of_clip)).split(256)
        ]
    )
    # of the rates of one motion and direction only the best
    least, rate = rearrange(error, "(s g r) -> s g r", s=count, r=len(RATES)).min(dim=2)
    chosen = least.argsort(dim=1)[:, :MOTIONS_EACH]  # (s, c)
    rows = torch.arange(count)[:, None] * num_ways + chosen * len(RATES) + rate.gather(1, chosen)
    return tried[rows.flatten()]


def _swept(
    places: Places, name: str, background: Tensor, keys: Tensor, times: Tensor, softness: float
) -> tuple[Places, Tensor]:
    """Each shape at the best of many angles or sizes, with the error there: least squares may have stopped at a star
    that is off by an arm."""
    period, count = SWEEPS[name]
    now = getattr(places, name)
    best, least = now, torch.full_like(now, torch.inf)
    for number in range(count):
        value = (now + period * number / count) % period
        drawn = draw(replace(places, **{name: value}), background, times, keys.shape[2], softness)
        error = (drawn - keys).square().flatten(1).mean(dim=1)
        best, least = torch.where(error < least, value, best), torch.minimum(error, least)
    return replace(places, **{name: best}), least


def _fit(places: Places, background: Tensor, keys: Tensor, times: Tensor, softness: float) -> tuple[Places, Tensor]:
    """Levenberg-Marquardt on place, angle, size and rate; each clip keeps its own damping. Also the errors (n,)."""
    resolution, ranges = keys.shape[2], _rate_ranges()[places.motion]
    width = ranges[:, 1] - ranges[:, 0]
    names = list(STEPS)
    small = torch.stack([torch.full_like(width, step) for step in STEPS.values()], dim=1)  # (n, 5)
    small[:, names.index("rate")] = width / 20

    def drawn(values: Tensor) -> Tensor:
        at = replace(places, **dict(zip(names, values.unbind(dim=1), strict=True)))
        return draw(at, background, times, resolution, softness).flatten(1)

    target, values = keys.flatten(1), torch.stack([getattr(places, name) for name in names], dim=1)
    picture = drawn(values)
    error, damping = (picture - target).square().mean(dim=1), torch.full((len(values),), 0.03)
    for _ in range(ROUNDS):
        # columns in units of `small`, so that damping treats all alike
        columns = torch.stack(
            [drawn(values + small * unit) - picture for unit in torch.eye(len(names))], dim=1
        )  # (n, 5, p)
        normal = columns @ columns.mT
        slope = einsum(columns, target - picture, "n v p, n p -> n v")
        damped = normal + (damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-6).diag_embed()
        tried = values + small * torch.linalg.solve(damped, slope)
        rate = names.index("rate")
        sign = values[:, rate].sign()
        low, high = ranges[:, 0] - SLACK * width, ranges[:, 1] + SLACK * width
        tried[:, rate] = sign * (sign * tried[:, rate]).clamp(low, high)
        new = drawn(tried)
        new_error = (new - target).square().mean(dim=1)
        better = new_error < error
        values, picture = torch.where(better[:, None], tried, values), torch.where(better[:, None], new, picture)
        error, damping = torch.where(better, new_error, error), torch.where(better, damping / 4, damping * 6)
    return replace(places, **dict(zip(names, values.unbind(dim=1), strict=True))), error
