"""The diagonal Gaussian that every encoder of this room returns; the cache stores its two moments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor

from vae.precision import at_least_fp32

Generators = torch.Generator | list[torch.Generator] | None

LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, exp(log_variance)), both of shape (b, c, t, h, w). DeCo-VAE Eq. 1."""

    mean: torch.Tensor
    log_variance: torch.Tensor

    def sample(self, generator: Generators = None) -> torch.Tensor:
        """One draw, (b, c, t, h, w). A list of CPU generators (one per clip) makes it independent of the batch size."""
        noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        # DeCo-VAE Eq. 2: z = mu + sigma * eps
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def latent(self, sample: bool, generator: Generators = None) -> torch.Tensor:
        """What is coded on, (b, c, t, h, w): a draw, or the mean."""
        return self.sample(generator) if sample else self.mean

    def stacked(self) -> torch.Tensor:
        """Both moments as one tensor (b, 2 c, t, h, w), which can be cut into tiles and blended."""
        return torch.cat([self.mean, self.log_variance], dim=1)

    @staticmethod
    def unstacked(moments: torch.Tensor) -> Gaussian:
        """Inverse of `stacked`."""
        half = moments.shape[1] // 2
        return Gaussian(*moments.split([half, half], dim=1))

    def kl(self) -> torch.Tensor:
        """KL(self || N(0, 1)) in nats, summed over everything but the batch: (b,)."""
        mean, log_variance = at_least_fp32(self.mean), at_least_fp32(self.log_variance)
        return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(dim=1)

    @staticmethod
    def from_moments(mean: torch.Tensor, log_variance: torch.Tensor) -> Gaussian:
        """Build from network outputs (any float dtype); the log-variance is clamped to [-30, 20]."""
        return Gaussian(at_least_fp32(mean), at_least_fp32(log_variance).clamp(*LOG_VARIANCE_RANGE))
