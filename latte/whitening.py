"""Between a VAE's own scale and that of Latte, by the statistics that a model carries.

Training meets latents that the cache has whitened already, with the same statistics.
"""

import torch
from einops import rearrange
from torch import Tensor

from latte.diffusion import Parts
from latte.latte import Latte


def whiten(model: Latte, latents: Parts) -> Parts:
    """(x - mean) / std per channel of each part (b, c, t, h, w); float32 on the CPU."""
    return {part: (x.float().cpu() - mean) / std for part, x, mean, std in with_statistics(model, latents)}


def unwhiten(model: Latte, latents: Parts) -> Parts:
    """x std + mean per channel of each part (b, c, t, h, w), the inverse of `whiten`; float32 on the CPU."""
    return {part: x.float().cpu() * std + mean for part, x, mean, std in with_statistics(model, latents)}


def with_statistics(model: Latte, latents: Parts) -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """Each part with its latent and its mean and standard deviation, (c, 1, 1, 1) each."""
    statistics = {
        part: [rearrange(torch.tensor(model.architecture.parts[part][key]), "c -> c 1 1 1") for key in ("mean", "std")]
        for part in latents
    }
    return [(part, x, *statistics[part]) for part, x in latents.items()]
