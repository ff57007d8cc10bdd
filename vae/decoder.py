"""Decoder: features -> pixels of one component; mirrors the encoder. One decoder body serves all components."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vae.blocks import BlockStack, Past
from vae.encoder import PIXEL_CHANNELS, BackboneConfig
from vae.precision import at_least_fp32
from vae.wavelet import (
    SPATIAL_NUM_BANDS,
    SPATIOTEMPORAL_NUM_BANDS,
    inverse_haar_spatial,
    inverse_haar_spatiotemporal,
)


class PatchHead(nn.Module):
    """Maps tokens back to patches of Haar bands: the mirror of `PatchProjection`."""

    def __init__(
        self,
        num_bands: int,
        patch: tuple[int, int, int],
        config: BackboneConfig,
        channels: int,
        overlapping: bool,
    ) -> None:
        super().__init__()
        self.patch, self.overlapping = patch, overlapping
        volume = patch[0] * patch[1] * patch[2]
        self.low = nn.Linear(config.low_width, (4 if overlapping else 1) * channels * volume)
        self.high = nn.Linear(config.high_width, (num_bands - 1) * channels * volume)

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """(b, t', h', w', low_width), (..., high_width) -> bands (b, num_bands c, t, h, w), fp32."""
        bands = [self.added(self.low(low)) if self.overlapping else self.side_by_side(self.low(low))]
        return at_least_fp32(torch.cat([*bands, self.side_by_side(self.high(high))], dim=1))

    def side_by_side(self, tokens: torch.Tensor) -> torch.Tensor:
        """Patches (b, t', h', w', c r p q) -> (b, c, t, h, w)."""
        r, p, q = self.patch
        return rearrange(tokens, "b t h w (c r p q) -> b c (t r) (h p) (w q)", r=r, p=p, q=q)

    def added(self, tokens: torch.Tensor) -> torch.Tensor:
        """Patches twice as high and wide, (b, t', h', w', 4 c r p q), -> (b, c, t, h, w).

        Each reaches over half of its neighbours, and what lies over one another is added: no border shows.
        """
        r, p, q = self.patch
        quarters = rearrange(tokens, "b t h w (i j c r p q) -> i j b c (t r) (h p) (w q)", i=2, j=2, r=r, p=p, q=q)
        padded = [F.pad(quarters[i, j], (j * q, (1 - j) * q, i * p, (1 - i) * p)) for i in (0, 1) for j in (0, 1)]
        canvas = torch.stack(padded).sum(dim=0)
        top, left = p // 2, q // 2
        return canvas[..., top : canvas.shape[-2] - p + top, left : canvas.shape[-1] - q + left]


class Decoder(nn.Module):
    """features (b, t', h', w', width) -> video (b, c, t, 8 h', 8 w'); first_frame and groups as in `Encoder`."""

    def __init__(
        self,
        config: BackboneConfig,
        patch_size: int,
        first_frame: bool,
        groups: bool,
        channels: int = PIXEL_CHANNELS,
        overlapping: bool = False,
    ) -> None:
        super().__init__()
        self.widths = [config.low_width, config.high_width]
        self.fusion_blocks = BlockStack(config.width, config.fusion_blocks, temporal=groups)
        self.low_blocks = BlockStack(config.low_width, config.separate_blocks, temporal=groups)
        self.high_blocks = BlockStack(config.high_width, config.separate_blocks, temporal=groups)
        if first_frame:
            patch = (1, patch_size, patch_size)
            self.image_head = PatchHead(SPATIAL_NUM_BANDS, patch, config, channels, overlapping)
        if groups:
            patch = (2, patch_size, patch_size)
            self.group_head = PatchHead(SPATIOTEMPORAL_NUM_BANDS, patch, config, channels, overlapping)

    def forward(
        self, features: torch.Tensor, starts_with_image: bool, past: dict[str, Past] | None = None
    ) -> tuple[torch.Tensor, dict[str, Past]]:
        """features: (b, t', h', w', width); starts_with_image: the first latent frame is one frame, not four."""
        past = past or {"low": None, "high": None, "fusion": None}
        features, fusion_past = self.fusion_blocks(features, past["fusion"])
        low, high = features.split(self.widths, dim=-1)
        low, low_past = self.low_blocks(low, past["low"])
        high, high_past = self.high_blocks(high, past["high"])
        frames = []
        num_images = int(starts_with_image)
        if num_images:
            frames.append(inverse_haar_spatial(self.image_head(low[:, :1], high[:, :1])))  # (b, 3, 1, h, w)
        if low.shape[1] > num_images:
            bands = self.group_head(low[:, num_images:], high[:, num_images:])
            frames.append(inverse_haar_spatiotemporal(bands))  # (b, 3, 4n, h, w)
        return torch.cat(frames, dim=2), {"low": low_past, "high": high_past, "fusion": fusion_past}
