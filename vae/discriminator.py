"""PatchGAN discriminators of single frames or of video (Isola et al. 2017), without batch statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import nn

from vae.choices import check_choices

NUM_GROUPS = 8
LARGEST_WIDENING = 8  # of the first layer's channels


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Kind and size of the discriminator."""

    kind: str = "frames"  # frames: judges every frame alone; video: 3-D, judges motion too
    width: int = 64  # channels of the first layer, a multiple of 8
    num_layers: int = 3  # layers between the first and the last; all but the last of them halve the size

    def __post_init__(self) -> None:
        check_choices(self, "vae.gan.discriminator", kind=tuple(DISCRIMINATORS))
        if self.width < NUM_GROUPS or self.width % NUM_GROUPS or self.num_layers < 1:
            raise ValueError(
                f"vae.gan.discriminator has width {self.width} and num_layers {self.num_layers}, but must have a width "
                f"that is a multiple of {NUM_GROUPS} and 1 layer or more"
            )


class FrameDiscriminator(ModelMixin, ConfigMixin):
    """(b, 3, t, h, w) in [-1, 1] -> patch logits (b t, 1, h', w'); three layers see patches of 70 pixels."""

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        config = DiscriminatorConfig(**architecture)
        strides = [2] * config.num_layers + [1, 1]
        self.layers = _patch_layers(nn.Conv2d, 4, strides, config.width)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """video: (b, 3, t, h, w) in [-1, 1]."""
        return self.layers(rearrange(video, "b c t h w -> (b t) c h w"))


class VideoDiscriminator(ModelMixin, ConfigMixin):
    """(b, 3, t, h, w) in [-1, 1] -> patch logits (b, 1, t', h', w'); time is halved twice, like in the latents."""

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        config = DiscriminatorConfig(**architecture)
        strides = [(2 if layer < 2 else 1, 2, 2) for layer in range(config.num_layers)] + [(1, 1, 1)] * 2
        self.layers = _patch_layers(nn.Conv3d, 3, strides, config.width)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """video: (b, 3, t, h, w) in [-1, 1]."""
        if video.device.type != "cpu":
            return self.layers(video)
        # On a CPU without autocast: oneDNN's bf16 gradient of a 3-D kernel holds uninitialised memory at some sizes.
        with torch.autocast("cpu", enabled=False):
            return self.layers(video.float())


DISCRIMINATORS: dict[str, type[FrameDiscriminator] | type[VideoDiscriminator]] = {
    "frames": FrameDiscriminator,
    "video": VideoDiscriminator,
}


def build_discriminator(config: DiscriminatorConfig) -> nn.Module:
    """A new discriminator of the named kind with random weights."""
    return DISCRIMINATORS[config.kind](asdict(config))


def _patch_layers(
    convolution: type[nn.Conv2d] | type[nn.Conv3d], kernel: int, strides: Sequence[int | tuple[int, ...]], width: int
) -> nn.Sequential:
    """One convolution per stride: 3 -> width -> 2 width ... -> 1, the size halved by a stride of 2."""
    first, *middle, last = strides
    layers: list[nn.Module] = [convolution(3, width, kernel, stride=first, padding=1), nn.LeakyReLU(0.2)]
    channels = width
    for stride in middle:
        out_channels = min(2 * channels, LARGEST_WIDENING * width)
        layers += [
            convolution(channels, out_channels, kernel, stride=stride, padding=1, bias=False),
            nn.GroupNorm(NUM_GROUPS, out_channels),  # statistics of one sample: no other clip can change a logit
            nn.LeakyReLU(0.2),
        ]
        channels = out_channels
    return nn.Sequential(*layers, convolution(channels, 1, kernel, stride=last, padding=1))
