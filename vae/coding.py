"""Records of coding one clip with DeCo-VAE: what passes from chunk to chunk, and what one chunk consists of."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from vae.gaussian import Gaussian
from vae.interface import Latents


@dataclass
class CodingState:
    """What coding a clip carries from one chunk of frames to the next."""

    keyframe: torch.Tensor | None = None  # x_0, (b, 3, h, w)
    decoded_keyframe: torch.Tensor | None = None  # x^_0, (b, 3, h, w)
    past: dict[str, dict] = field(default_factory=dict)  # per network: the last frames of its convolutions


@dataclass
class Coding:
    """One chunk, coded up to the residual's latent. The components are (b, 3, t, h, w); None where there are none."""

    posterior: dict[str, Gaussian] = field(default_factory=dict)
    latents: Latents = field(default_factory=dict)
    motion: torch.Tensor | None = None  # m, pixels and level
    decoded_motion: torch.Tensor | None = None  # m^
    prediction: torch.Tensor | None = None  # W(x^_0, m^)
    residual: torch.Tensor | None = None  # r
