"""proxy_frechet_latents_...: the distribution of an autoencoder's whitened latents, one distance per part.

A clip's features are log energies of every channel: how much it varies over the clip, between neighbouring positions
and between successive latent frames.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from pipelines.metrics.declared import ITS_RECORD, LOWER, PROXIES, Metric, declare

Encode = Callable[[Tensor], Mapping[str, Tensor]]  # (n, 3, t, h, w) in [-1, 1] -> {part: (n, c, t', h', w')}
PREFIX = "proxy_frechet_latents_"
# Of latents of variance 1. Without it clips in which nothing happens, of which every data set has some, would be so far
# from all others that they alone made the distance.
SMALLEST_ENERGY = 0.1

declare(
    Metric(
        f"{PREFIX}residual",
        "PROXY: Fréchet distance to held-out clips in the energy of the whitened residual latents of the run's "
        "autoencoder.",
        LOWER,
        ITS_RECORD,
        PROXIES,
    )
)


class LatentFeatures:
    """Whitened latents of some parts of an autoencoder.

    encode: gives the latents that a clip is decoded from. deviations: {part: (c,)} of every part that is scored, over
    real clips (`latent_deviations`). identity: hash of the weights.
    """

    def __init__(
        self, encode: Encode, deviations: Mapping[str, Tensor], identity: str, device: torch.device | str = "cpu"
    ) -> None:
        self.encode, self.deviations, self.identity, self.device = encode, dict(deviations), identity, device
        self.dimensions: Mapping[str, int] = {f"{PREFIX}{part}": 3 * len(std) for part, std in deviations.items()}

    @torch.inference_mode()
    def __call__(self, video_uint8: Tensor) -> dict[str, Tensor]:
        """(n, t, h, w, 3) uint8 -> {name: (n, 3 c)}."""
        latents = self.encode(as_float(video_uint8).to(self.device))
        return {
            f"{PREFIX}{part}": latent_energies(latents[part].float().cpu() / rearrange(std, "c -> c 1 1 1"))
            for part, std in self.deviations.items()
        }

    def record(self) -> dict[str, Any]:
        """Distances in the latents of other weights are other numbers."""
        return {"autoencoder": self.identity}


@torch.inference_mode()
def latent_deviations(
    encode: Encode, clips: Iterable[Tensor], parts: Iterable[str], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """{part: (c,)} standard deviation of every channel over clips, positions and frames; 1 where a channel is constant.

    clips: a stream of (n, t, h, w, 3) uint8, one chunk in memory at a time.
    """
    sums: dict[str, Tensor] = {}
    for video_uint8 in clips:
        latents = encode(as_float(video_uint8).to(device))
        for part in parts:
            values = rearrange(latents[part].double().cpu(), "n c t h w -> c (n t h w)")
            moments = torch.stack([torch.ones_like(values), values, values.square()]).sum(dim=2)  # (3, c)
            sums[part] = sums[part] + moments if part in sums else moments
    found = {}
    for part, (count, total, squares) in sums.items():
        variance = (squares / count - (total / count).square()).clamp(min=0)
        found[part] = torch.where(variance > 0, variance, 1.0).sqrt().float()
    return found


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
