"""Encoder: pixels of one component -> features at 1/8 of the size and 1/4 of the frames, from patches of Haar bands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from vae.blocks import BlockStack, Past
from vae.wavelet import (
    SPATIAL_NUM_BANDS,
    SPATIOTEMPORAL_NUM_BANDS,
    haar_spatial,
    haar_spatiotemporal,
    split_bands,
)

PIXEL_CHANNELS = 3  # RGB, and equally (flow x, flow y, scale)


@dataclass(frozen=True)
class BackboneConfig:
    """Size of one encoder or decoder; the defaults are the full width (11.43 M parameters)."""

    low_width: int = 128  # channels of the low-frequency path
    high_width: int = 384  # channels of the high-frequency path
    separate_blocks: int = 2  # residual blocks in each of the two paths
    fusion_blocks: int = 4  # residual blocks after the paths are joined

    @property
    def width(self) -> int:
        """Channels after the two paths are joined."""
        return self.low_width + self.high_width


class PatchProjection(nn.Module):
    """Cuts Haar bands into patches and maps each to a token; low and high bands have their own linear layer."""

    def __init__(self, num_bands: int, patch: tuple[int, int, int], config: BackboneConfig, channels: int) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch
        volume = patch[0] * patch[1] * patch[2]
        self.low = nn.Linear(channels * volume, config.low_width)
        self.high = nn.Linear((num_bands - 1) * channels * volume, config.high_width)

    def forward(self, bands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """bands: (b, num_bands c, t, h, w) -> low (b, t', h', w', low_width), high (b, t', h', w', high_width)."""
        r, p, q = self.patch
        low, high = (
            rearrange(band, "b c (t r) (h p) (w q) -> b t h w (c r p q)", r=r, p=p, q=q)
            for band in split_bands(bands, self.channels)
        )
        return self.low(low), self.high(high)


class Encoder(nn.Module):
    """(b, c, t, h, w) -> features (b, t', h / 8, w / 8, width) with patch_size 4.

    first_frame: the clip begins with a frame of its own (encoded as an image).  groups: it goes on with groups of four
    frames. Both: 1 + 4n frames -> 1 + n. Only what is asked for is built.
    """

    def __init__(
        self, config: BackboneConfig, patch_size: int, first_frame: bool, groups: bool, channels: int = PIXEL_CHANNELS
    ) -> None:
        super().__init__()
        self.first_frame, self.groups = first_frame, groups
        if first_frame:
            self.image_patches = PatchProjection(SPATIAL_NUM_BANDS, (1, patch_size, patch_size), config, channels)
        if groups:
            self.group_patches = PatchProjection(
                SPATIOTEMPORAL_NUM_BANDS, (2, patch_size, patch_size), config, channels
            )
        self.low_blocks = BlockStack(config.low_width, config.separate_blocks, temporal=groups)
        self.high_blocks = BlockStack(config.high_width, config.separate_blocks, temporal=groups)
        self.fusion_blocks = BlockStack(config.width, config.fusion_blocks, temporal=groups)

    def forward(self, video: torch.Tensor, past: dict[str, Past] | None = None) -> tuple[torch.Tensor, dict[str, Past]]:
        """video: (b, c, t, h, w); past: what an earlier chunk of the same clip returned."""
        low, high = self._tokens(video, continues=past is not None)
        past = past or {"low": None, "high": None, "fusion": None}
        low, low_past = self.low_blocks(low, past["low"])  # (b, t', h', w', low_width)
        high, high_past = self.high_blocks(high, past["high"])  # (b, t', h', w', high_width)
        features, fusion_past = self.fusion_blocks(torch.cat([low, high], dim=-1), past["fusion"])
        return features, {"low": low_past, "high": high_past, "fusion": fusion_past}

    def _tokens(self, video: torch.Tensor, continues: bool) -> tuple[torch.Tensor, torch.Tensor]:
        num_images = 1 if self.first_frame and not continues else 0
        image, rest = video.split([num_images, video.shape[2] - num_images], dim=2)
        tokens = []
        if num_images:
            tokens.append(self.image_patches(haar_spatial(image)))
        if rest.shape[2]:
            tokens.append(self.group_patches(haar_spatiotemporal(rest)))
        low, high = zip(*tokens, strict=True)
        return torch.cat(low, dim=1), torch.cat(high, dim=1)
