"""proxy_frechet_latents_...: the distribution of an autoencoder's latents, one distance per part.

A clip's features are log energies of every channel: how much it varies over the clip, between neighbouring positions
and between successive latent frames. Dividing them by their deviation over the real clips whitens them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

Encode = Callable[[Tensor], Mapping[str, Tensor]]  # (n, 3, t, h, w) in [-1, 1] -> {part: (n, c, t', h', w')}
PREFIX = "proxy_frechet_latents_"
SMALLEST_ENERGY = 1e-4  # of a part that carries nothing, such as the motion of a still clip: not minus infinity


class LatentFeatures:
    """Latents of some parts of an autoencoder.

    encode: gives the latents that a clip is decoded from. channels: of every part that is scored. identity: hash of
    the weights.
    """

    def __init__(
        self, encode: Encode, channels: Mapping[str, int], identity: str, device: torch.device | str = "cpu"
    ) -> None:
        self.encode, self.channels, self.identity, self.device = encode, dict(channels), identity, device
        self.dimensions: Mapping[str, int] = {f"{PREFIX}{part}": 3 * size for part, size in channels.items()}

    @torch.inference_mode()
    def __call__(self, video_uint8: Tensor) -> dict[str, Tensor]:
        """(n, t, h, w, 3) uint8 -> {name: (n, 3 c)}."""
        latents = self.encode(as_float(video_uint8).to(self.device))
        return {f"{PREFIX}{part}": latent_energies(latents[part].float().cpu()) for part in self.channels}

    def record(self) -> dict[str, Any]:
        """Distances in the latents of other weights are other numbers."""
        return {"autoencoder": self.identity}


def latent_energies(latent: Tensor) -> Tensor:
    """Log energy per channel of the deviation from the clip's mean, of spatial and of temporal differences.

    latent: (n, c, t, h, w) with h, w > 1 -> (n, 3 c); a latent of one frame has no temporal differences: they
    are 0.
    """
    centred = latent - latent.mean(dim=(2, 3, 4), keepdim=True)
    down, across = latent.diff(dim=3), latent.diff(dim=4)
    over_time = latent.diff(dim=2) if latent.shape[2] > 1 else torch.zeros_like(latent)
    spatial = down.square().mean(dim=(2, 3, 4)) + across.square().mean(dim=(2, 3, 4))
    energies = [centred.square().mean(dim=(2, 3, 4)), spatial, over_time.square().mean(dim=(2, 3, 4))]
    return (torch.cat(energies, dim=1) + SMALLEST_ENERGY).log()


def as_float(video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n, 3, t, h, w) float in [-1, 1], what the networks take."""
    return rearrange(video_uint8, "n t h w c -> n c t h w").float() / 127.5 - 1
