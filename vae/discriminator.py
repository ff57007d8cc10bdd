"""PatchGAN discriminator on single frames (Isola et al. 2017), without batch statistics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import nn


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Size of the discriminator."""

    width: int = 64  # channels of the first layer
    num_layers: int = 3  # strided layers; 3 sees patches of 70 pixels


class FrameDiscriminator(ModelMixin, ConfigMixin):
    """(b, 3, t, h, w) in [-1, 1] -> patch logits (b t, 1, h', w')."""

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        config = DiscriminatorConfig(**architecture)
        layers: list[nn.Module] = [nn.Conv2d(3, config.width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = config.width
        for layer in range(1, config.num_layers + 1):
            out_channels = min(config.width * 2**layer, 8 * config.width)
            stride = 2 if layer < config.num_layers else 1
            layers += [
                nn.Conv2d(channels, out_channels, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, out_channels),  # statistics of one frame: no other clip can change a logit
                nn.LeakyReLU(0.2),
            ]
            channels = out_channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, padding=1))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """video: (b, 3, t, h, w) in [-1, 1]."""
        return self.layers(rearrange(video, "b c t h w -> (b t) c h w"))
