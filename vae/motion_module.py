"""The motion module M: predicts scale-space flow from a frame and its keyframe (DeCo-VAE Eq. 4).

Same network as the motion encoder and decoder of CompressAI's ssf2020, without its hyperprior; 2,896,963 parameters at
width 128. With `skips` it sees past its bottleneck, a sixteenth of the frame's size, which blurs the flow of small
shapes. Trained by `pipelines/train_motion.py`, used frozen (phase 1) or trained along (phase 2) by the VAE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import nn

from vae.precision import at_least_fp32
from vae.scale_space_flow import NUM_LEVELS, pad_to_multiple

INITIAL_LEVEL = 0.1  # nearly sharp, but inside the volume: at level 0 the border has no gradient


@dataclass(frozen=True)
class MotionModuleConfig:
    """Size of the motion module."""

    width: int = 128  # channels of the hidden layers; the bottleneck has 1.5 times as many
    downscale: int = 2  # 2: motion is estimated and coded at half the resolution; 1: at the full one (paper)
    skips: bool = False  # what the encoder saw is added to the decoder at every size, so that flow has edges

    def __post_init__(self) -> None:
        if self.downscale not in (1, 2):
            raise ValueError(f"vae.deco_vae.motion_module.downscale is {self.downscale}, expected 1 or 2")


def _halve(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2)


def _double(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2, output_padding=1)


class MotionModule(ModelMixin, ConfigMixin):
    """(current frame, keyframe) -> flow x, flow y in pixels and the scale as a level index in [0, 5].

    A Gaussian level is measured at the resolution of the video, whatever `downscale` is.
    """

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        self.architecture = config = MotionModuleConfig(**architecture)
        width, self.downscale = config.width, config.downscale
        bottleneck = width * 3 // 2
        self.motion_encoder = nn.Sequential(
            _halve(6, width), nn.ReLU(), _halve(width, width), nn.ReLU(), _halve(width, width), nn.ReLU(),
            _halve(width, bottleneck),
        )  # fmt: skip
        self.motion_decoder = nn.Sequential(
            _double(bottleneck, width), nn.ReLU(), _double(width, width), nn.ReLU(), _double(width, width), nn.ReLU(),
            _double(width, 3),
        )  # fmt: skip
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """He et al. 2015, so that frames still differ at the last layer (by torch's default, 200 times less there than
        at the first, the flow of plain frames stayed at zero for hundreds of steps); begins near the identity warp."""
        for layer in (*self.motion_encoder, *self.motion_decoder):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                taps: float = layer.kernel_size[0] * layer.kernel_size[1]
                if isinstance(layer, nn.ConvTranspose2d):  # every output is reached by one tap in four
                    taps /= layer.stride[0] * layer.stride[1]
                nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * taps)) ** 0.5)
                nn.init.zeros_(layer.bias)
        head = self.motion_decoder[-1]
        head.weight.mul_(0.1)
        head.bias.copy_(torch.tensor([0.0, 0.0, INITIAL_LEVEL]))

    def forward(self, video: torch.Tensor, keyframe: torch.Tensor) -> torch.Tensor:
        """Motion of every frame against the keyframe, fp32.

        video: (b, 3, t, h, w), keyframe: (b, 3, h, w), both in [-1, 1], h and w multiples of `downscale`.
        Returns (b, 3, t, h / downscale, w / downscale): flow x, flow y in pixels of the video, level in [0, 5].
        """
        num_frames = video.shape[2]
        current = self._shrink(rearrange(video, "b c t h w -> (b t) c h w"))
        reference = self._shrink(keyframe).repeat_interleave(num_frames, dim=0)
        height, width = current.shape[-2:]
        # DeCo-VAE Eq. 4: m_t = M(Concat(x_t, x_0)); M reads RGB in [0, 1]
        pair = (torch.cat([current, reference], dim=1) + 1) / 2
        motion = at_least_fp32(self.estimate(pad_to_multiple(pair)))
        flow, level = motion[..., :height, :width].split([2, 1], dim=1)
        motion = torch.cat([flow * self.downscale, level.clamp(0, NUM_LEVELS)], dim=1)
        return rearrange(motion, "(b t) c h w -> b c t h w", t=num_frames)

    def estimate(self, pair: torch.Tensor) -> torch.Tensor:
        """(n, 6, h, w), sizes multiples of 16 -> (n, 3, h, w)."""
        seen: list[torch.Tensor] = []  # (n, width, h / 2, w / 2), then / 4 and / 8
        x = pair
        for layer in self.motion_encoder:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                seen.append(x)
        for layer in self.motion_decoder:
            x = layer(x)
            if self.architecture.skips and isinstance(layer, nn.ReLU):
                x = x + seen.pop()
        return x

    def _shrink(self, image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(image, self.downscale) if self.downscale > 1 else image
