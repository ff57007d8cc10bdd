"""Decoder: features -> pixels of one component; mirrors the encoder. One decoder body serves all components."""

from __future__ import annotations

from typing import cast

import torch
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

    def __init__(self, num_bands: int, patch: tuple[int, int, int], config: BackboneConfig, channels: int) -> None:
        super().__init__()
        self.patch = patch
        volume = patch[0] * patch[1] * patch[2]
        self.low = nn.Linear(config.low_width, channels * volume)
        self.high = nn.Linear(config.high_width, (num_bands - 1) * channels * volume)
        self.smooth = None
        if config.smooth_head:  # patches meet in steps that only a look across their borders can take away
            self.smooth = nn.Conv3d(num_bands * channels, num_bands * channels, (1, 3, 3), padding=(0, 1, 1))
            nn.init.zeros_(self.smooth.weight)
            nn.init.zeros_(cast(torch.Tensor, self.smooth.bias))

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """(b, t', h', w', low_width), (..., high_width) -> bands (b, num_bands c, t, h, w), fp32."""
        r, p, q = self.patch
        bands = [
            rearrange(tokens, "b t h w (c r p q) -> b c (t r) (h p) (w q)", r=r, p=p, q=q)
            for tokens in (self.low(low), self.high(high))
        ]
        joined = torch.cat(bands, dim=1)
        return at_least_fp32(joined if self.smooth is None else joined + self.smooth(joined))


class Decoder(nn.Module):
    """features (b, t', h', w', width) -> video (b, c, t, 8 h', 8 w'); first_frame and groups as in `Encoder`."""

    def __init__(
        self, config: BackboneConfig, patch_size: int, first_frame: bool, groups: bool, channels: int = PIXEL_CHANNELS
    ) -> None:
        super().__init__()
        self.widths = [config.low_width, config.high_width]
        self.fusion_blocks = BlockStack(config.width, config.fusion_blocks, temporal=groups)
        self.low_blocks = BlockStack(config.low_width, config.separate_blocks, temporal=groups)
        self.high_blocks = BlockStack(config.high_width, config.separate_blocks, temporal=groups)
        if first_frame:
            self.image_head = PatchHead(SPATIAL_NUM_BANDS, (1, patch_size, patch_size), config, channels)
        if groups:
            self.group_head = PatchHead(SPATIOTEMPORAL_NUM_BANDS, (2, patch_size, patch_size), config, channels)

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
