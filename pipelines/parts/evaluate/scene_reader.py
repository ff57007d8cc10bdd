"""Reads the scene out of a clip of the embedded shapes in their plain look: a search in a bank, then least squares.

What was read is drawn anew; how near that comes says how far the clip is a picture of that world.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor

from pipelines.data.shape_drawing import MOTIONS, SHAPES, Places, Scene, rate_name, shares
from pipelines.data.synthetic import COLOURS, LOOKS, plain_paint

LOOK = LOOKS["plain"]
BANK_SIZE, NUM_KEYS = 16, 5  # pixels and frames of the drawings in the bank
ANGLES, PHASES, RATES = 12, 6, (0.25, 0.75)  # of the bank; rates as shares of their range
CANDIDATES, SEARCH_SIZE = 4, 32  # drawings that least squares start from, and their pixels at first
ROUNDS, SLACK = 8, 0.25  # of least squares; how far beyond its range a rate may be read, in ranges
STEPS = {"x": 2e-3, "y": 2e-3, "angle": 0.02, "size_phase": 5e-3, "rate": 0.0}  # of finite differences
CIRCLES, SWEEP = {"size_phase": 1.0, "angle": 2 * torch.pi}, 24  # what is tried all around after that
CLIPS_AT_ONCE = 8


@dataclass(frozen=True)
class Readings:
    """What n clips seem to show."""

    places: Places
    background: Tensor  # (n,) int64, position in BACKGROUNDS
    body: Tensor  # (n,) int64, position in BODIES
    fidelity: Tensor  # (n,) dB: energy of the drawn shape over that of all differences to it; 0 where there is none

    @property
    def motions(self) -> list[str]:
        """The class that each clip shows."""
        return [list(MOTIONS)[number] for number in self.places.motion.tolist()]


@torch.inference_mode()
def read_scenes(video_uint8: Tensor) -> Readings:
    """What each clip (n, t, h, w, 3) uint8 shows, whatever was asked for; h = w."""
    found = [_read(part) for part in video_uint8.split(CLIPS_AT_ONCE)]
    columns = zip(*(vars(one.places).values() for one in found), strict=True)
    return Readings(
        Places(*(torch.cat(column) for column in columns)),
        *(torch.cat([getattr(one, name) for one in found]) for name in ("background", "body", "fidelity")),
    )


def draw(places: Places, background: Tensor, body: Tensor, times: Tensor, resolution: int, softness: float) -> Tensor:
    """Scenes in their colours, (n, t, h, w, 3) in [0, 1]."""
    behind, colours = _palette(resolution)
    behind = rearrange(behind[background], "n h w c -> n 1 h w c")
    seen = shares(places, times, resolution, LOOK.radii, softness)
    own = rearrange(colours[body], "n two c -> n 1 1 1 two c")
    return behind + (seen[..., None] * (own - behind[..., None, :])).sum(dim=-2)


def _read(video_uint8: Tensor) -> Readings:
    """One batch of clips."""
    num_clips, num_frames, resolution = video_uint8.shape[:3]
    video = video_uint8.float() / 255
    times = torch.linspace(0, num_frames - 1, NUM_KEYS).round()
    keys = video[:, times.long()]  # (n, k, h, w, 3)
    errors = (keys[:, None] - _palette(resolution)[0][:, None]).abs().mean(dim=-1)  # (n, backgrounds, k, h, w)
    background = errors.flatten(2).median(dim=2).values.argmin(dim=1)  # a shape covers less than half
    small = _shrink(keys, SEARCH_SIZE)
    places, body = _from_bank(_shrink(keys, BANK_SIZE), background, num_frames)
    many = repeat(background, "n -> (n c)", c=CANDIDATES)
    targets = repeat(small, "n k h w rgb -> (n c) k h w rgb", c=CANDIDATES)
    places, _ = _fit(places, many, body, targets, times, softness=2.0)
    for name, period in CIRCLES.items():
        places, error = _swept(places, name, period, many, body, targets, times, softness=2.0)
    best = rearrange(error, "(n c) -> n c", c=CANDIDATES).argmin(dim=1) + torch.arange(num_clips) * CANDIDATES
    places, body = places[best], body[best]
    places, _ = _fit(places, background, body, keys, times, softness=1.5)
    all_times = torch.arange(num_frames, dtype=torch.float32)
    drawn = draw(places, background, body, all_times, resolution, 1.0)
    behind = rearrange(_palette(resolution)[0][background], "n h w c -> n 1 h w c")
    # beside the shape's own energy: an empty background is no good picture of a small or a pale shape
    energy, error = ((drawn - other).square().flatten(1).sum(dim=1) for other in (behind, video))
    return Readings(places, background, body, 10 * torch.log10(energy.clamp(min=1e-6) / error.clamp(min=1e-6)))


@lru_cache
def _palette(resolution: int) -> tuple[Tensor, Tensor]:
    """Backgrounds (b, h, w, 3) and pairs of colours (k, 2, 3), in [0, 1]."""
    backgrounds = [plain_paint(number, 0, resolution).background for number in range(COLOURS["background"])]
    bodies = [plain_paint(0, number, resolution) for number in range(COLOURS["body"])]
    pairs = [torch.stack([torch.from_numpy(paint.body), torch.from_numpy(paint.second)]) for paint in bodies]
    return torch.stack([torch.from_numpy(one) for one in backgrounds]), torch.stack(pairs)


def _shrink(video: Tensor, size: int) -> Tensor:
    """(n, t, h, w, 3) -> (n, t, size, size, 3), averaged over areas."""
    frames = rearrange(video, "n t h w c -> (n t) c h w")
    return rearrange(F.interpolate(frames, size=(size, size), mode="area"), "(n t) c h w -> n t h w c", n=len(video))


def _rate_ranges() -> Tensor:
    """(motions, 2): the smallest and the largest rate of every motion, in the units of `Scene`."""
    units = {"speed": 1 / 64, "turn": torch.pi / 180, "growth": 1.0}
    names = [rate_name(motion) for motion in MOTIONS]
    return torch.tensor([[end * units[name] for end in getattr(LOOK, name)] for name in names])


@lru_cache
def _bank(num_frames: int) -> tuple[Places, Tensor, Tensor]:
    """Drawings at one place, in all shapes, motions, angles and sizes; transforms (m, k, 2, h, w / 2 + 1) of their
    shares, and the products of these (m, 2, 2)."""
    ranges, entries = _rate_ranges().tolist(), []
    for shape, motion, angle, phase, rate in product(LOOK.shapes, MOTIONS, range(ANGLES), range(PHASES), RATES):
        low, high = ranges[list(MOTIONS).index(motion)]
        rates = dict.fromkeys(("speed", "turn", "growth"), 0.0) | {rate_name(motion): low + rate * (high - low)}
        scene = Scene(shape, 0.5, 0.5, 2 * torch.pi * angle / ANGLES, phase / PHASES, **rates)
        entries.append((scene, motion))
    places = Places.of([scene for scene, _ in entries], [motion for _, motion in entries])
    times = torch.linspace(0, num_frames - 1, NUM_KEYS).round()
    rows = torch.arange(len(entries)).split(256)
    seen = torch.cat([shares(places[part], times, BANK_SIZE, LOOK.radii, softness=1.0) for part in rows])
    seen = rearrange(seen, "m k h w two -> m k two h w")
    return places, torch.fft.rfft2(seen), einsum(seen, seen, "m k i h w, m k j h w -> m i j")


def _from_bank(keys: Tensor, background: Tensor, num_frames: int) -> tuple[Places, Tensor]:
    """The CANDIDATES drawings of the bank, each moved and coloured at its best, that are nearest to each clip.

    keys: (n, k, 16, 16, 3). Returns places (n c,) and bodies (n c,).
    """
    bank, transforms, products = _bank(num_frames)
    behind, colours = _palette(BANK_SIZE)
    differences = torch.fft.rfft2(rearrange(keys - behind[background][:, None], "n k h w c -> n k c h w"))
    found, bodies, moves = [], [], []
    for one, number in zip(differences, background.tolist(), strict=True):
        weights = colours - behind[number].mean(dim=(0, 1))  # (b, 2, 3): as if the background had one colour
        painted = einsum(weights.to(one.dtype), one, "b two c, k c h w -> b k two h w")
        product_of = einsum(painted, transforms.conj(), "b k two h w, m k two h w -> b m h w")
        overlap = torch.fft.irfft2(product_of, s=(BANK_SIZE, BANK_SIZE))  # at every move
        energy = einsum(weights, weights, products, "b i c, b j c, m i j -> b m")
        best, move = overlap.flatten(2).max(dim=2)  # (b, m)
        error, body = (energy - 2 * best).min(dim=0)  # (m,)
        # the best of every pair of shape and motion, then the best of these
        kind = bank.shape * len(MOTIONS) + bank.motion
        of_kind = torch.full((len(SHAPES) * len(MOTIONS),), torch.inf).scatter_reduce(0, kind, error, "amin")
        chosen = (error == of_kind[kind]).nonzero().flatten()
        chosen = chosen[error[chosen].argsort()[:CANDIDATES]]
        found.append(chosen)
        bodies.append(body[chosen])
        moves.append(move[body[chosen], chosen])
    places, moved = bank[torch.cat(found)], torch.cat(moves)
    down, across = (moved // BANK_SIZE) / BANK_SIZE, (moved % BANK_SIZE) / BANK_SIZE
    return replace(places, x=(places.x + across) % 1, y=(places.y + down) % 1), torch.cat(bodies)


def _swept(
    places: Places,
    name: str,
    period: float,
    background: Tensor,
    body: Tensor,
    keys: Tensor,
    times: Tensor,
    softness: float,
) -> tuple[Places, Tensor]:
    """Each shape at the best of SWEEP values around a circle, with the error there: least squares may have stopped at
    a star that is off by an arm, or at one size where the largest fades into the smallest."""
    now = getattr(places, name)
    best, least = now, torch.full_like(now, torch.inf)
    for number in range(SWEEP):
        value = now + period * number / SWEEP
        drawn = draw(replace(places, **{name: value}), background, body, times, keys.shape[2], softness)
        error = (drawn - keys).square().flatten(1).mean(dim=1)
        best, least = torch.where(error < least, value, best), torch.minimum(error, least)
    return replace(places, **{name: best}), least


def _fit(
    places: Places, background: Tensor, body: Tensor, keys: Tensor, times: Tensor, softness: float
) -> tuple[Places, Tensor]:
    """Levenberg-Marquardt on place, angle, size and rate; each clip keeps its own damping. Also the errors (n,)."""
    resolution, ranges = keys.shape[2], _rate_ranges()[places.motion]
    width = ranges[:, 1] - ranges[:, 0]
    names = list(STEPS)
    small = torch.stack([torch.full_like(width, step) for step in STEPS.values()], dim=1)  # (n, 5)
    small[:, names.index("rate")] = width / 20

    def drawn(values: Tensor) -> Tensor:
        at = replace(places, **dict(zip(names, values.unbind(dim=1), strict=True)))
        return draw(at, background, body, times, resolution, softness).flatten(1)

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
        low, high = ranges[:, 0] - SLACK * width, ranges[:, 1] + SLACK * width
        tried[:, rate] = tried[:, rate].clamp(low, high)
        new = drawn(tried)
        new_error = (new - target).square().mean(dim=1)
        better = new_error < error
        values, picture = torch.where(better[:, None], tried, values), torch.where(better[:, None], new, picture)
        error, damping = torch.where(better, new_error, error), torch.where(better, damping / 4, damping * 6)
    return replace(places, **dict(zip(names, values.unbind(dim=1), strict=True))), error
