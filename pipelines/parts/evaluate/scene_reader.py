"""Reads the scene out of a clip of the embedded shapes: a network's guess, then a search that draws it again.

What was read is drawn anew; how near that comes says how far the clip is a picture of that world.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pipelines.data.shape_drawing import MOTIONS, Paint, Scene, shares
from pipelines.data.synthetic import COLOURS, LOOKS, Look, draw_scene, plain_paint

SIZE, FRAME_STEP = 32, 2  # pixels and frames that the network sees
BANK, BATCH, PEAK_LR = 4096, 64, 2e-3
CIRCLES = ("x", "y", "angle", "size_phase")  # read as cosine and sine
RATES = ("speed", "turn", "growth")
CANDIDATES = 3  # pairs of shape and motion that the search starts from
ROUNDS, FIRST_STEPS = 7, {"x": 0.06, "y": 0.06, "angle": 0.35, "size_phase": 0.1, "rate": 0.12}


@dataclass(frozen=True)
class Reading:
    """What a clip seems to show."""

    scene: Scene
    motion: str
    psnr: float  # dB, of the clip to the scene as drawn


class SceneReader(nn.Module):
    """Convolutions over all frames at once, with wrapped borders: shape, motion, points on circles, a rate."""

    def __init__(self, num_frames: int, num_shapes: int, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3 * num_frames, width, 2 * width, 3 * width]
        for inside, outside in zip(channels, channels[1:], strict=False):
            convolution = nn.Conv2d(inside, outside, 5, 2, 2, padding_mode="circular")
            layers += [convolution, nn.GroupNorm(8, outside), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * (SIZE // 8) ** 2, 384), nn.SiLU())
        self.sizes = [num_shapes, len(MOTIONS), 2 * len(CIRCLES), 1]
        self.head = nn.Linear(384, sum(self.sizes))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """frames: (n, 3, t, 32, 32) in [-1, 1] -> shape (n, s), motion (n, 8), circles (n, 4, 2), rate (n,) in [0, 1]."""
        features = self.trunk(rearrange(frames, "n c t h w -> n (c t) h w"))
        shape, motion, circles, rate = self.head(features).split(self.sizes, dim=1)
        circles = F.normalize(rearrange(circles, "n (k d) -> n k d", d=2), dim=2)
        return shape, motion, circles, rearrange(rate, "n 1 -> n").sigmoid()


def shrink(video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n, 3, ceil(t / 2), 32, 32) in [-1, 1]."""
    clips = video_uint8[:, ::FRAME_STEP]
    frames = rearrange(clips, "n t h w c -> (n t) c h w").float() / 127.5 - 1
    return rearrange(F.interpolate(frames, size=(SIZE, SIZE), mode="area"), "(n t) c h w -> n c t h w", n=len(clips))


def rate_name(motion: str) -> str:
    """Which of a scene's rates shows in a motion."""
    step_x, step_y, step_angle, _ = MOTIONS[motion]
    return "speed" if step_x or step_y else "turn" if step_angle else "growth"


def rate_range(look: Look, motion: str) -> tuple[float, float]:
    """Smallest and largest rate of a motion, in the units of `Scene`."""
    low, high = getattr(look, rate_name(motion))
    scale = {"speed": 1 / 64, "turn": np.pi / 180, "growth": 1.0}[rate_name(motion)]
    return low * scale, high * scale


def fit_reader(look: Look, num_frames: int, steps: int, seed: int, device: torch.device | str = "cpu") -> SceneReader:
    """Train on drawn clips of any colours, blurred and noisy at random; the global random state stays."""
    random, names = np.random.default_rng(seed), list(MOTIONS)
    scenes = [draw_scene(look, random) for _ in range(BANK)]
    motions = random.integers(len(names), size=BANK)
    seen = [
        torch.from_numpy(shares(scene, names[motion], num_frames, SIZE, look.radii, FRAME_STEP))
        for scene, motion in zip(scenes, motions, strict=True)
    ]
    bank = rearrange(torch.stack(seen), "n t h w k -> n k t h w").half()
    targets = [_targets(look, scene, names[motion]) for scene, motion in zip(scenes, motions, strict=True)]
    shape, motion, circles, rate = (torch.stack(column) for column in zip(*targets, strict=True))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = SceneReader(bank.shape[2], len(look.shapes)).to(device).train()
        optimizer = torch.optim.AdamW(reader.parameters(), lr=PEAK_LR, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=max(steps, 2), pct_start=0.1)
        for _ in range(steps):
            chosen = torch.randint(BANK, (BATCH,), generator=generator)
            frames = painted(bank[chosen].float(), generator).to(device)
            with torch.autocast(frames.device.type, torch.bfloat16):
                found = reader(frames)
            loss = F.cross_entropy(found[0].float(), shape[chosen].to(device))
            loss = loss + F.cross_entropy(found[1].float(), motion[chosen].to(device))
            loss = loss + 4 * (found[2].float() - circles[chosen].to(device)).square().mean()
            loss = loss + (found[3].float() - rate[chosen].to(device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


def _targets(look: Look, scene: Scene, motion: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    turns = torch.tensor([scene.x, scene.y, scene.angle / (2 * np.pi), scene.size_phase]) * (2 * np.pi)
    low, high = rate_range(look, motion)
    rate = (getattr(scene, rate_name(motion)) - low) / (high - low)
    circles = torch.stack([turns.cos(), turns.sin()], dim=1).float()
    return (
        torch.tensor(look.shapes.index(scene.shape)),
        torch.tensor(list(MOTIONS).index(motion)),
        circles,
        torch.tensor(rate).float(),
    )


def painted(seen: Tensor, generator: torch.Generator) -> Tensor:
    """Shares (n, 3, t, h, w) in random colours on random gradients and clouds, blurred and noisy: (n, 3, t, h, w)."""
    num_clips, _, _, height, width = seen.shape
    body, second = (torch.rand(num_clips, 3, 1, 1, 1, generator=generator) * 2 - 1 for _ in range(2))
    coarse = torch.rand(num_clips, 3, 3, 3, generator=generator) * 2 - 1
    clouds = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    calm = torch.rand(num_clips, 1, 1, 1, generator=generator)  # how even the background is
    mean = clouds.mean(dim=(2, 3), keepdim=True)
    background = rearrange(mean + calm * (clouds - mean), "n c h w -> n c 1 h w")
    own, other, behind = seen.split(1, dim=1)
    video = own * body + other * second + behind * background
    noise = (
        torch.randn(video.shape, generator=generator) * 0.15 * torch.rand(num_clips, 1, 1, 1, 1, generator=generator)
    )
    blurred = F.avg_pool3d(F.pad(video, (1, 1, 1, 1, 0, 0), mode="replicate"), (1, 3, 3), stride=1)
    share = torch.rand(num_clips, 1, 1, 1, 1, generator=generator)
    return video + share * (blurred - video) + noise


@torch.inference_mode()
def read_scenes(reader: SceneReader, video_uint8: Tensor, look_name: str) -> list[Reading]:
    """What each clip (n, t, h, w, 3) uint8 shows: the best of a few guesses of the network after a search."""
    look, names = LOOKS[look_name], list(MOTIONS)
    readings = []
    for clip in video_uint8:
        shape, motion, circles, rate = (found[0].float().cpu() for found in reader(shrink(clip[None])))
        joint = shape.log_softmax(0)[:, None] + motion.log_softmax(0)  # (s, 8)
        turns = torch.atan2(circles[:, 1], circles[:, 0]) / (2 * np.pi) % 1
        start = dict(zip(CIRCLES, turns.tolist(), strict=True))
        start["angle"] *= 2 * np.pi
        guesses = []
        for place in joint.flatten().topk(CANDIDATES).indices.tolist():
            kind, moving = look.shapes[place // len(names)], names[place % len(names)]
            low, high = rate_range(look, moving)
            rates: dict[str, Any] = dict.fromkeys(RATES, 0.0) | {rate_name(moving): low + float(rate) * (high - low)}
            guesses.append(search(clip.numpy(), Scene(shape=kind, **start, **rates), moving, look_name))
        readings.append(max(guesses, key=lambda guess: guess.psnr))
    return readings


def search(clip_uint8: np.ndarray, scene: Scene, motion: str, look_name: str) -> Reading:
    """Move place, angle, size and rate, one after the other by ever smaller steps, while the drawing comes nearer."""
    clip, look = clip_uint8.astype(np.float32) / 255, LOOKS[look_name]
    few, num_frames = clip[::FRAME_STEP], len(clip)
    low, high = rate_range(look, motion)

    def seen(scene: Scene, step: int) -> np.ndarray:
        return shares(scene, motion, num_frames, clip.shape[1], look.radii, step)

    colours = best_colours(few, seen(scene, FRAME_STEP)) if look_name == "plain" else None
    best, steps = drawing_error(few, seen(scene, FRAME_STEP), colours), dict(FIRST_STEPS)
    for number in range(ROUNDS):
        for name in (*CIRCLES, rate_name(motion)):
            width = steps.get(name, steps["rate"] * (high - low) * 4)
            for sign in (1, -1):
                moved = replace(scene, **{name: getattr(scene, name) + sign * width})
                error = drawing_error(few, seen(moved, FRAME_STEP), colours)
                if error < best:
                    scene, best = moved, error
                    break
        if number == 1 and colours is not None:  # the place is known better now
            colours = best_colours(few, seen(scene, FRAME_STEP))
            best = drawing_error(few, seen(scene, FRAME_STEP), colours)
        steps = {name: width * 0.6 for name, width in steps.items()}
    error = drawing_error(clip, seen(scene, 1), colours)
    return Reading(scene, motion, float(-10 * np.log10(max(error, 1e-10))))


def best_colours(clip: np.ndarray, seen: np.ndarray) -> Paint:
    """Of the plain look, the background and body that draw a clip (t, h, w, 3) in [0, 1] best. seen: from `shares`."""
    paints = [plain_paint(0, body, clip.shape[1]) for body in range(COLOURS["body"])]
    behind = seen[..., 2:]
    backgrounds = [plain_paint(number, 0, clip.shape[1]).background for number in range(COLOURS["background"])]
    background = min(backgrounds, key=lambda one: float((behind * np.abs(clip - one)).mean()))
    return min(
        (replace(paint, background=background) for paint in paints),
        key=lambda paint: drawing_error(clip, seen, paint),
    )


def drawing_error(clip: np.ndarray, seen: np.ndarray, colours: Paint | None) -> float:
    """Mean squared error of a clip (t, h, w, 3) in [0, 1] to a scene, of which `shares` gave what is seen where.

    colours: what it is painted in; None: in what suits it best, two colours and a background that stands still, found
    by turns (a clip is linear in its colours).
    """
    shape, behind = seen[..., :2], seen[..., 2:]
    if colours is not None:
        drawn = shape @ np.stack([colours.body, colours.second]) + behind * colours.background
        return float(np.square(clip - drawn).mean())
    weight = (behind**2).sum(axis=0)
    background, left = np.median(clip, axis=0), shape.reshape(-1, 2)
    for _ in range(2):
        rest = (clip - behind * background).reshape(-1, 3)
        pair = np.linalg.lstsq(left.T @ left + 1e-3 * np.eye(2), left.T @ rest, rcond=None)[0]
        drawn = shape @ np.clip(pair, 0, 1)
        nearer = (behind * (clip - drawn)).sum(axis=0) / np.maximum(weight, 1e-2)
        background = np.where(weight > 1e-2, nearer, background)
    return float(np.square(clip - drawn - behind * background).mean())
