"""proxy_frechet_temporal: the distribution of temporal-difference energies. Pixels only, nothing is learned."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pipelines.metrics.declared import ITS_RECORD, LOWER, PROXIES, Metric, declare

NAME = "proxy_frechet_temporal"
NUM_BANDS = 4  # the last holds what is left below three halvings
QUANTISATION = 1 / 12  # energy of rounding to levels of 255: a still picture is not minus infinity
SMALLEST_SIDE = 2 ** (NUM_BANDS - 1)

declare(
    Metric(
        NAME,
        "PROXY: Fréchet distance to held-out clips in the energy of differences between successive frames, in four "
        "bands of spatial frequency. Lower is better; 0 = alike.",
        LOWER,
        ITS_RECORD,
        PROXIES,
    )
)


class TemporalFeatures:
    """Per clip: log energy of x_{t+1} - x_t and of x_{t+1} - 2 x_t + x_{t-1} in four bands of spatial frequency, each
    as the log of its mean over time and as the mean of its log: the two differ where a clip moves by fits and starts.
    """

    dimensions: Mapping[str, int] = {NAME: 4 * NUM_BANDS}

    def __call__(self, video_uint8: Tensor) -> dict[str, Tensor]:
        """(n, t, h, w, 3) uint8, t >= 4 -> (n, 16)."""
        return {NAME: temporal_energies(video_uint8)}

    def record(self) -> dict[str, Any]:
        """Nothing but pixels is behind it."""
        return {"bands": NUM_BANDS}


def temporal_energies(video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8, t >= 4, sides of 8 or more -> (n, 16) float: [band, difference, kind of mean]."""
    num_clips, num_frames, height, width, _ = video_uint8.shape
    if num_frames < 4 or min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"proxy_frechet_temporal needs 4 frames of {SMALLEST_SIDE} pixels or more, got {num_frames} of "
            f"{height} x {width}; score longer or larger clips."
        )
    energies = []
    picture = rearrange(video_uint8, "n t h w c -> (n t) c h w").float()
    for band in range(NUM_BANDS):
        coarse = F.avg_pool2d(picture, 2) if band < NUM_BANDS - 1 else torch.zeros_like(picture)
        detail = picture - F.interpolate(coarse, size=picture.shape[-2:], mode="nearest")
        difference = rearrange(detail, "(n t) c h w -> n t (c h w)", n=num_clips)
        for _ in range(2):
            difference = difference.diff(dim=1)  # (n, t - 1, c h w), then (n, t - 2, c h w)
            energy = difference.square().mean(dim=2) + QUANTISATION  # (n, t - 1), then (n, t - 2)
            energies += [energy.mean(dim=1).log(), energy.log().mean(dim=1)]
        picture = coarse
    return torch.stack(energies, dim=1)
