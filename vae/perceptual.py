"""The frames of a clip that the perceptual loss compares."""

from __future__ import annotations

import torch
from einops import rearrange

from vae.interface import TEMPORAL_COMPRESSION


def perceptual_frames(video: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """Frame 0 and one random group of four of each clip: (b, 3, t, h, w) -> indices (b, 5), or (b, 1) at t = 1."""
    num_groups = (video.shape[2] - 1) // TEMPORAL_COMPRESSION
    first = torch.zeros(len(generators), 1, dtype=torch.long)
    if num_groups == 0:
        return first
    group = torch.stack([torch.randint(num_groups, (1,), generator=g) for g in generators])  # (b, 1)
    return torch.cat([first, 1 + TEMPORAL_COMPRESSION * group + torch.arange(TEMPORAL_COMPRESSION)], dim=1)


def take_frames(video: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """video: (b, 3, t, h, w), indices: (b, n) -> images (b n, 3, h, w)."""
    clips = torch.arange(video.shape[0], device=video.device)
    frames = rearrange(video, "b c t h w -> b t c h w")[rearrange(clips, "b -> b 1"), indices.to(video.device)]
    return rearrange(frames, "b n c h w -> (b n) c h w")
