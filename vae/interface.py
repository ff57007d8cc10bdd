"""What every video autoencoder of this project offers; the stages, the trainer and the tests know only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from einops import repeat
from omegaconf import OmegaConf
from torch import nn

from vae.gaussian import Gaussian, Generators

TEMPORAL_COMPRESSION = 4
Latents = dict[str, torch.Tensor]
Config = TypeVar("Config")


def typed_config(config_class: type[Config], values: dict) -> Config:
    """The dict of a saved model's config -> its dataclass; unknown keys and wrong types are refused."""
    merged = OmegaConf.merge(OmegaConf.structured(config_class), dict(values))
    return cast(Config, OmegaConf.to_object(merged))


@dataclass(frozen=True)
class ComponentPair:
    """A decoded component beside what it should be, for the component losses; both (b, 3, t, h, w)."""

    decoded: torch.Tensor
    target: torch.Tensor
    starts_with_image: bool  # frame 0 stands alone; the others come in groups of four


@dataclass(frozen=True)
class Coded:
    """Everything one training pass produces."""

    posterior: dict[str, Gaussian]
    latents: Latents
    reconstruction: torch.Tensor  # (b, 3, t, h, w), not clipped
    components: dict[str, ComponentPair]
    statistics: dict[str, torch.Tensor]  # scalars worth logging


@dataclass(frozen=True)
class Encoding:
    """posterior: what to cache. latents: what was used for closed-loop prediction, i.e. what to decode."""

    posterior: dict[str, Gaussian]
    latents: Latents


class VideoAutoencoder(ModelMixin, ConfigMixin):
    """Base of all video autoencoders. A video is (b, 3, t, h, w) in [-1, 1]; a latent {part: (b, c, t', h', w')}.

    t must be 4n + 1 and h, w multiples of `size_multiple`; `reconstruct` pads and crops anything else.
    """

    causal: bool  # latents of earlier frames do not depend on later ones
    size_multiple: int

    def encode(self, video: torch.Tensor, sample: bool = False, generator: Generators = None) -> Encoding:
        """Posterior of every part. sample=True draws the latents, otherwise they are the means."""
        raise NotImplementedError

    def decode(self, latents: Latents) -> torch.Tensor:
        """{part: (b, c, t', h', w')} -> video (b, 3, t, h, w), not clipped."""
        raise NotImplementedError

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> (c, t', h', w') of every part."""
        raise NotImplementedError

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Encode and decode in one pass, keeping what the losses need."""
        raise NotImplementedError

    def decode_components(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """What pictures and scores show of a coded clip: at least "reconstruction", (b, 3, t, h, w)."""
        return {"reconstruction": self.decode(self.encode(video).latents)}

    def motion_modules(self) -> list[nn.Module]:
        """What phase 1 of the decoupled adaptation freezes."""
        return []

    def keyframe_modules(self) -> list[nn.Module]:
        """What phase 2 of the decoupled adaptation freezes."""
        return []

    def check_video(self, video: torch.Tensor) -> None:
        """Raise ValueError unless `video` can be encoded as it is."""
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"a video must be (b, 3, t, h, w), got {tuple(video.shape)}")
        num_frames, height, width = video.shape[2:]
        if num_frames % TEMPORAL_COMPRESSION != 1 or height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"a clip must have 4n + 1 frames and sizes that are multiples of {self.size_multiple}, got "
                f"{num_frames} frames of {height} x {width}: use reconstruct(), or pad_clip() and crop after decoding"
            )

    def pad_clip(self, video: torch.Tensor) -> torch.Tensor:
        """Repeat the last frame and replicate the border until `check_video` passes: (b, 3, t, h, w)."""
        missing = -(video.shape[2] - 1) % TEMPORAL_COMPRESSION
        bottom, right = -video.shape[3] % self.size_multiple, -video.shape[4] % self.size_multiple
        if missing:
            last = repeat(video[:, :, -1], "b c h w -> b c t h w", t=missing)
            video = torch.cat([video, last], dim=2)
        return F.pad(video, (0, right, 0, bottom, 0, 0), mode="replicate") if bottom or right else video

    def reconstruct(self, video: torch.Tensor) -> torch.Tensor:
        """Encode and decode a video of any length and size: (b, 3, t, h, w) in [-1, 1] -> the same, clipped."""
        num_frames, height, width = video.shape[2:]
        decoded = self.decode(self.encode(self.pad_clip(video)).latents)
        return decoded[:, :, :num_frames, :height, :width].clamp(-1, 1)
