"""Damage in three strengths, which every metric of videos should rank: 1 is the mildest. Clips: (t, h, w, 3) uint8."""

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

NUM_CLASSES = 4
STRENGTHS = (0, 1, 2, 3)  # 0: none
MIX_UP = "class mix-ups"


def blur(video: Tensor, strength: int, seed: int) -> Tensor:
    """Gaussian blur of 1, 2 and 4 pixels (of 64). video: (t, h, w, 3) uint8."""
    sigma = (1.0, 2.0, 4.0)[strength - 1]
    radius = round(4 * sigma)
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    frames = F.pad(rearrange(video, "t h w c -> t c h w").float(), (radius,) * 4, mode="replicate")
    frames = F.conv2d(frames, taps.reshape(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    frames = F.conv2d(frames, taps.reshape(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    return rearrange(frames, "t c h w -> t h w c").round().clamp(0, 255).to(torch.uint8)


def noise(video: Tensor, strength: int, seed: int) -> Tensor:
    """White noise of 8, 16 and 32 levels (of 255). video: (t, h, w, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    spread = (8.0, 16.0, 32.0)[strength - 1]
    noisy = video.float() + spread * torch.randn(video.shape, generator=generator)
    return noisy.round().clamp(0, 255).to(torch.uint8)


def shuffle(video: Tensor, strength: int, seed: int) -> Tensor:
    """Frames in random order within windows of 2, of 4, and of the whole clip. video: (t, h, w, 3) uint8."""
    window, generator, order = (2, 4, len(video))[strength - 1], random.Random(seed), list[int]()
    for start in range(0, len(video), window):
        part = list(range(start, min(start + window, len(video))))
        generator.shuffle(part)
        order += part
    return video[order]


def freeze(video: Tensor, strength: int, seed: int) -> Tensor:
    """The clip stands still after 13, 9 and 1 of its 17 frames. video: (t, h, w, 3) uint8."""
    last = (12, 8, 0)[strength - 1]
    return video[[min(frame, last) for frame in range(len(video))]]


def mix_up(labels: Tensor, strength: int, seed: int) -> Tensor:
    """Another class than the true one for a quarter, half, and all of the clips. labels: (n,)."""
    generator = random.Random(seed)
    chosen = generator.sample(range(len(labels)), round(len(labels) * (0, 0.25, 0.5, 1)[strength]))
    wrong = labels.clone()
    for i in chosen:
        wrong[i] = (labels[i] + generator.randrange(1, NUM_CLASSES)) % NUM_CLASSES
    return wrong


DAMAGE: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "blur": blur,
    "noise": noise,
    "shuffling": shuffle,
    "freezing": freeze,
}
SETS = [("none", 0), *((name, strength) for name in DAMAGE for strength in STRENGTHS[1:])]


def damaged(clips: Sequence[Tensor], name: str, strength: int) -> Tensor:
    """clips: each (t, h, w, 3) uint8 -> (n, t, h, w, 3); every clip has a seed of its own."""
    shown = [DAMAGE[name](clip, strength, seed) if strength else clip for seed, clip in enumerate(clips)]
    return torch.stack(shown)
