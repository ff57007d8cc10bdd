"""proxy_frechet_latents_...: the distribution of an autoencoder's latents, one distance per part.

A clip's features are, for every channel, the mean and the logarithm of the spread over positions and frames; dividing
them by their deviation over the real clips whitens them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

Encode = Callable[[Tensor], Mapping[str, Tensor]]  # (n, 3, t, h, w) in [-1, 1] -> {part: (n, c, t', h', w')}
PREFIX = "proxy_frechet_latents_"
SMALLEST_SPREAD = 1e-3  # of latents of a part that carries nothing, such as the motion of a still clip


class LatentFeatures:
    """Latents of some parts of an autoencoder.

    encode: gives the latents that a clip is decoded from. channels: of every part that is scored. identity: hash of
    the weights.
    """

    def __init__(
        self, encode: Encode, channels: Mapping[str, int], identity: str, device: torch.device | str = "cpu"
    ) -> None:
        self.encode, self.channels, self.identity, self.device = encode, dict(channels), identity, device
        self.dimensions: Mapping[str, int] = {f"{PREFIX}{part}": 2 * size for part, size in channels.items()}

    @torch.inference_mode()
    def __call__(self, video_uint8: Tensor) -> dict[str, Tensor]:
        """(n, t, h, w, 3) uint8 -> {name: (n, 2 c)}."""
        latents = self.encode(as_float(video_uint8).to(self.device))
        return {f"{PREFIX}{part}": latent_moments(latents[part].float().cpu()) for part in self.channels}

    def record(self) -> dict[str, Any]:
        """Distances in the latents of other weights are other numbers."""
        return {"autoencoder": self.identity}


def latent_moments(latent: Tensor) -> Tensor:
    """(n, c, t, h, w) -> (n, 2 c): mean and log spread of every channel over t, h and w."""
    values = rearrange(latent, "n c t h w -> n c (t h w)")
    return torch.cat([values.mean(dim=2), (values.std(dim=2) + SMALLEST_SPREAD).log()], dim=1)


def as_float(video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n, 3, t, h, w) float in [-1, 1], what the networks take."""
    return rearrange(video_uint8, "n t h w c -> n c t h w").float() / 127.5 - 1
