"""One-level orthonormal Haar transform of a causal video: the first frame alone, then groups of two frames.

Bands are ordered low first, so that `bands.split([c, 3 * c])` separates the low band from the high ones.
"""

from __future__ import annotations

import torch
from einops import rearrange

SPATIAL_NUM_BANDS = 4
SPATIOTEMPORAL_NUM_BANDS = 8


def haar_spatial(video: torch.Tensor) -> torch.Tensor:
    """Two-dimensional Haar of every frame: (b, c, t, 2h, 2w) -> (b, 4c, t, h, w). LL | LH HL HH."""
    x = rearrange(video, "b c t (h p) (w q) -> p q b c t h w", p=2, q=2)
    left, right = (x[0, 0] + x[1, 0]) / 2, (x[0, 1] + x[1, 1]) / 2
    left_difference, right_difference = (x[0, 0] - x[1, 0]) / 2, (x[0, 1] - x[1, 1]) / 2
    return torch.cat(
        [left + right, left - right, left_difference + right_difference, left_difference - right_difference], dim=1
    )


def inverse_haar_spatial(bands: torch.Tensor) -> torch.Tensor:
    """Exact inverse of `haar_spatial`: (b, 4c, t, h, w) -> (b, c, t, 2h, 2w)."""
    channels = bands.shape[1] // SPATIAL_NUM_BANDS
    low, horizontal, vertical, diagonal = bands.split([channels] * SPATIAL_NUM_BANDS, dim=1)
    left, right = (low + horizontal) / 2, (low - horizontal) / 2
    left_difference, right_difference = (vertical + diagonal) / 2, (vertical - diagonal) / 2
    pixels = torch.stack(
        [left + left_difference, right + right_difference, left - left_difference, right - right_difference]
    )
    return rearrange(pixels, "(p q) b c t h w -> b c t (h p) (w q)", p=2, q=2)


def haar_spatiotemporal(video: torch.Tensor) -> torch.Tensor:
    """Three-dimensional Haar of pairs of frames: (b, c, 2t, 2h, 2w) -> (b, 8c, t, h, w), low band first."""
    first, second = rearrange(video, "b c (t r) h w -> r b c t h w", r=2).unbind(0)
    scale = 2**-0.5
    return torch.cat([haar_spatial((first + second) * scale), haar_spatial((first - second) * scale)], dim=1)


def inverse_haar_spatiotemporal(bands: torch.Tensor) -> torch.Tensor:
    """Exact inverse of `haar_spatiotemporal`: (b, 8c, t, h, w) -> (b, c, 2t, 2h, 2w)."""
    half = bands.shape[1] // 2
    total, difference = (inverse_haar_spatial(half_bands) for half_bands in bands.split([half, half], dim=1))
    scale = 2**-0.5
    pairs = torch.stack([(total + difference) * scale, (total - difference) * scale])
    return rearrange(pairs, "r b c t h w -> b c (t r) h w")


def split_bands(bands: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(low band with `channels` channels, all high bands)."""
    low, high = bands.split([channels, bands.shape[1] - channels], dim=1)
    return low, high
