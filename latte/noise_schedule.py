"""How noise enters latents: x_t = signal(t) x_0 + noise(t) e for every objective, and one step of the DDPM chain.

Timesteps are the model's, from 0 (data) to 1000 (noise) for flow and 0 to 999 for the chain, where -1 means data.
"""

from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

NUM_TIMESTEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02  # DDPM's linear betas


@cache
def signal_levels(zero_terminal_snr: bool = False, device: torch.device | None = None) -> Tensor:
    """DDPM's cumulative alphas, 1000 linear betas, fp64 (1001,): entry t + 1 is step t, entry 0 is data.

    `zero_terminal_snr`: their square roots are shifted and scaled so that the last is 0 and the first stays (Lin et
    al. 2024, Algorithm 1).
    """
    betas = torch.linspace(BETA_FIRST, BETA_LAST, NUM_TIMESTEPS, dtype=torch.float64)
    levels = torch.cumprod(1 - betas, dim=0)
    if zero_terminal_snr:
        root = levels.sqrt()
        levels = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return torch.cat([torch.ones(1, dtype=torch.float64), levels]).to(device)


@dataclass(frozen=True)
class Level:
    """One noise level per sample: x_t = signal x_0 + noise e, both float32 (b, 1, 1, 1, 1)."""

    signal: Tensor
    noise: Tensor

    @staticmethod
    def of(objective: str, timestep: Tensor, zero_terminal_snr: bool = False) -> "Level":
        """timestep: (b,), negative = data. Flow: the straight line of Liu et al. (2023); else DDPM Eq. 4."""
        if objective == "flow":
            time = (timestep.float() / NUM_TIMESTEPS).clamp(min=0)
            return Level(spread(1 - time), spread(time))
        alpha = signal_levels(zero_terminal_snr, timestep.device)[timestep.long() + 1]
        return Level(spread(alpha.sqrt().float()), spread((1 - alpha).sqrt().float()))

    def add_noise(self, clean: Tensor, noise: Tensor) -> Tensor:
        """x_t from x_0 and noise, (b, c, t, h, w) each."""
        return self.signal * clean + self.noise * noise

    def target(self, objective: str, clean: Tensor, noise: Tensor) -> Tensor:
        """What the model has to predict.

        flow: the velocity e - x_0 (Liu et al. 2023); epsilon: e; v: signal e - noise x_0 (Salimans & Ho 2022).
        """
        if objective == "flow":
            return noise - clean
        return noise if objective == "epsilon" else self.signal * noise - self.noise * clean

    def clean_and_noise(self, objective: str, noisy: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 and e from x_t and a prediction of `target`, its inverse."""
        if objective == "flow":
            return noisy - self.noise * output, noisy + self.signal * output
        if objective == "epsilon":
            return (noisy - self.noise * output) / self.signal, output
        return self.signal * noisy - self.noise * output, self.noise * noisy + self.signal * output

    def min_snr_weight(self, objective: str, gamma: float) -> Tensor:
        """Weight of the squared error, (b, 1, 1, 1, 1): that of x_0 is weighted by min(SNR, gamma) (Hang et al. 2023).

        An error in epsilon counts 1 / SNR of that in x_0, an error in v 1 / (SNR + 1). Where nothing of the signal is
        left (zero terminal SNR) the weight of v is zero.
        """
        snr = (self.signal / self.noise).square()
        return snr.clamp(max=gamma) / (snr if objective == "epsilon" else snr + 1)


@dataclass(frozen=True)
class Chain:
    """One step of the DDPM chain per sample, from a timestep to an earlier one; float32 factors (b, 1, 1, 1, 1).

    The earlier timestep need not be t - 1: a respaced chain has the betas 1 - alpha(t) / alpha(earlier).
    """

    alpha_earlier: Tensor  # signal level (cumulative alpha) at the earlier timestep
    noise_alpha: Tensor  # 1 - alpha at the timestep, computed in fp64
    beta: Tensor  # 1 - alpha / alpha_earlier
    log_beta: Tensor
    log_posterior_variance: Tensor  # of q(x_earlier | x_t, x_0), clipped at the first step where it is zero

    @staticmethod
    def of(timestep: Tensor, earlier: Tensor, zero_terminal_snr: bool = False) -> "Chain":
        """timestep, earlier: (b,) int64 with -1 <= earlier < timestep <= 999, -1 = data."""
        levels = signal_levels(zero_terminal_snr, timestep.device)
        alpha, alpha_earlier = levels[timestep + 1], levels[earlier + 1]
        beta = 1 - alpha / alpha_earlier
        # at the last step the posterior is a point: its variance is replaced by that of the step before, as in IDDPM
        floor = (1 - levels[2] / levels[1]) * (1 - levels[1]) / (1 - levels[2])
        posterior_variance = (beta * (1 - alpha_earlier) / (1 - alpha)).clamp(min=floor)
        values = (alpha_earlier, 1 - alpha, beta, beta.log(), posterior_variance.log())
        return Chain(*(spread(value.float()) for value in values))

    def posterior(self, noisy: Tensor, clean: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the earlier x given x_t and an estimate of x_0 (DDPM Eq. 7).

        weight: the model's variance output in [-1, 1], interpolating between the posterior's log variance and log beta
        (Nichol & Dhariwal 2021, Eq. 15); None = the true posterior's.
        """
        mean = self.alpha_earlier.sqrt() * self.beta / self.noise_alpha * clean
        mean = mean + (1 - self.beta).sqrt() * (1 - self.alpha_earlier) / self.noise_alpha * noisy
        if weight is None:
            return mean, self.log_posterior_variance
        return mean, torch.lerp(self.log_posterior_variance, self.log_beta, (weight + 1) / 2)

    def deterministic_step(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The earlier x on the same trajectory (DDIM, Song et al. 2021, Eq. 12 with sigma 0)."""
        return self.alpha_earlier.sqrt() * clean + (1 - self.alpha_earlier).sqrt() * noise


def spread(values: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, 1, 1)."""
    return rearrange(values, "b -> b 1 1 1 1")
