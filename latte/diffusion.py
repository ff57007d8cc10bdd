"""The two objectives, `flow` and `epsilon`, as free functions over {part: latent}.

Noise is drawn and errors are taken per PART, not per stream: a keyframe that the layout repeats has one noise for all
its copies, and what the layout pads reaches no loss.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from torch import Tensor

from latte.embeddings import drop_labels
from latte.latte import Latte

Parts = dict[str, Tensor]  # {part: (b, c, t, h, w)}
Draws = Callable[[str], list[torch.Generator]]  # the name of a draw -> one CPU generator per sample
NUM_TIMESTEPS = 1000


@dataclass(frozen=True)
class Prediction:
    """What the model says per part: flow velocity or noise and, with `epsilon`, the variance's interpolation weight."""

    mean: Parts
    variance: Parts = field(default_factory=dict)


def predict(model: Latte, noisy: Parts, timestep: Tensor, labels: Tensor | None) -> Prediction:
    """Run the model on parts: pack, predict, unpack. timestep: (b,) in [0, 1000]; labels: (b,), null class allowed."""
    streams = model(model.layout.pack(noisy), timestep, labels)
    if not model.predicts_variance:
        return Prediction(model.layout.unpack(streams))
    channels = {stream.name: [stream.channels, stream.channels] for stream in model.layout.streams}
    halves = {name: stream.split(channels[name], dim=1) for name, stream in streams.items()}
    mean = model.layout.unpack({name: half[0] for name, half in halves.items()})
    return Prediction(mean, model.layout.unpack({name: half[1] for name, half in halves.items()}))


def draw_noise(model: Latte, generators: Sequence[torch.Generator], device: torch.device) -> Parts:
    """Standard normal noise for every part, from each sample's own CPU generator, in the layout's order of parts."""
    batch = len(generators)
    return {
        part: randn_tensor((batch, *shape), generator=list(generators), device=device, dtype=torch.float32)
        for part, shape in model.layout.parts.items()
    }


def draw_uniform(generators: Sequence[torch.Generator]) -> Tensor:
    """One uniform number in [0, 1) per sample, (b,)."""
    return torch.cat([torch.rand(1, generator=generator) for generator in generators])


def draw_times(model: Latte, generators: Sequence[torch.Generator]) -> Tensor:
    """Training times in [0, 1), (b,): logit-normal (Esser et al. 2024) for flow, uniform for epsilon."""
    if model.architecture.objective == "epsilon":
        return draw_uniform(generators)
    normal = torch.cat([torch.randn(1, generator=generator) for generator in generators])
    return torch.sigmoid(model.architecture.time_mean + model.architecture.time_std * normal)


def training_loss(model: Latte, latents: Parts, labels: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's loss with times, noise and dropped labels drawn through `draws`.

    latents: {part: (b, c, t, h, w)} whitened; labels: (b,) int64, -1 = none. Returns the loss and named scalars: the
    loss of each part (mean square error) and, for epsilon, the variational bound.
    """
    device = labels.device
    kept = draw_uniform(draws("label_dropout")).to(device)
    labels = drop_labels(labels, model.num_classes, model.architecture.label_dropout, kept)
    times = draw_times(model, draws("time")).to(device)
    return loss_at(model, latents, labels, times, draw_noise(model, draws("noise"), device))


def loss_at(
    model: Latte, latents: Parts, labels: Tensor, times: Tensor, noise: Parts
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss at given times (b,) in [0, 1) and noise; see `training_loss`."""
    objective = epsilon_loss if model.architecture.objective == "epsilon" else flow_loss
    latents = {part: latents[part].float() for part in model.layout.parts}
    return objective(model, latents, labels, times, noise)


def flow_loss(
    model: Latte, latents: Parts, labels: Tensor, times: Tensor, noise: Parts
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rectified flow (Liu et al. 2023): x_t = (1 - t) x_0 + t noise, and the model predicts noise - x_0."""
    noisy = {part: torch.lerp(x, noise[part], spread(times)) for part, x in latents.items()}
    prediction = predict(model, noisy, times * NUM_TIMESTEPS, labels)
    errors = {part: (prediction.mean[part] - (noise[part] - x)).square() for part, x in latents.items()}
    return weighted_mean(model, errors), part_means(errors)


def epsilon_loss(
    model: Latte, latents: Parts, labels: Tensor, times: Tensor, noise: Parts
) -> tuple[Tensor, dict[str, Tensor]]:
    """DDPM with learned variance (Nichol & Dhariwal 2021, Eq. 16): mean square error plus the variational bound.

    The bound trains the variance only. At t = 0 it is the density of the Gaussian decoder: the discretised one of DDPM
    Eq. 13 is made for 8-bit pixels and latents are continuous.
    """
    timestep = (times * NUM_TIMESTEPS).long()
    chain = Chain.of(timestep, timestep - 1)
    noisy = {part: chain.add_noise(x, noise[part]) for part, x in latents.items()}
    prediction = predict(model, noisy, timestep.float(), labels)
    errors = {part: (prediction.mean[part] - noise[part]).square() for part in latents}
    bounds = {}
    for part, x in latents.items():
        mean, log_variance = chain.posterior(noisy[part], prediction.mean[part].detach(), prediction.variance[part])
        true_mean, true_log_variance = chain.posterior(noisy[part], noise[part], None)
        divergence = gaussian_divergence(true_mean, true_log_variance, mean, log_variance)
        density = 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * torch.exp(-log_variance))
        bounds[part] = torch.where(spread(timestep == 0), density, divergence) / math.log(2)  # bits
    bound = weighted_mean(model, bounds)
    return weighted_mean(model, errors) + bound, {**part_means(errors), "bound": bound.detach()}


def gaussian_divergence(mean_a: Tensor, log_variance_a: Tensor, mean_b: Tensor, log_variance_b: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(b) from N(a), per element, in nats."""
    difference = (mean_a - mean_b).square() * torch.exp(-log_variance_b)
    return 0.5 * (log_variance_b - log_variance_a - 1 + torch.exp(log_variance_a - log_variance_b) + difference)


def weighted_mean(model: Latte, values: Parts) -> Tensor:
    """Mean over all elements of all parts: a part weighs by its number of elements times its `part_weights`."""
    weights = {part: model.architecture.part_weights.get(part, 1.0) for part in values}
    total = torch.stack([weights[part] * value.sum() for part, value in values.items()]).sum()
    return total / sum(weights[part] * value.numel() for part, value in values.items())


def part_means(errors: Parts) -> dict[str, Tensor]:
    """{"loss_<part>": mean} of every part that has elements."""
    return {f"loss_{part}": error.detach().mean() for part, error in errors.items() if error.numel()}


def spread(values: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, 1, 1)."""
    return rearrange(values, "b -> b 1 1 1 1")


def signal_levels() -> Tensor:
    """DDPM's cumulative alphas, 1000 linear betas from 1e-4 to 0.02, fp64 (1001,): entry t + 1 is step t, 0 data."""
    betas = torch.linspace(1e-4, 0.02, NUM_TIMESTEPS, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])


@dataclass(frozen=True)
class Chain:
    """One step of the DDPM chain per sample, from a timestep to an earlier one; float32 factors (b, 1, 1, 1, 1).

    The earlier timestep need not be t - 1: a respaced chain has the betas 1 - alpha(t) / alpha(earlier).
    """

    alpha: Tensor  # signal level (cumulative alpha) at the timestep
    alpha_earlier: Tensor
    noise_alpha: Tensor  # 1 - alpha, computed in fp64
    beta: Tensor  # 1 - alpha / alpha_earlier
    log_beta: Tensor
    log_posterior_variance: Tensor  # of q(x_earlier | x_t, x_0), clipped at the first step where it is zero

    @staticmethod
    def of(timestep: Tensor, earlier: Tensor) -> "Chain":
        """timestep, earlier: (b,) int64 with -1 <= earlier < timestep <= 999, -1 = data."""
        levels = signal_levels().to(timestep.device)
        alpha, alpha_earlier = levels[timestep + 1], levels[earlier + 1]
        beta = 1 - alpha / alpha_earlier
        # at the last step the posterior is a point: its variance is replaced by that of the step before, as in IDDPM
        floor = (1 - levels[2] / levels[1]) * (1 - levels[1]) / (1 - levels[2])
        posterior_variance = (beta * (1 - alpha_earlier) / (1 - alpha)).clamp(min=floor)
        values = (alpha, alpha_earlier, 1 - alpha, beta, beta.log(), posterior_variance.log())
        return Chain(*(spread(value.float()) for value in values))

    def add_noise(self, latent: Tensor, noise: Tensor) -> Tensor:
        """DDPM Eq. 4: x_t from x_0."""
        return self.alpha.sqrt() * latent + self.noise_alpha.sqrt() * noise

    def clean(self, noisy: Tensor, noise: Tensor) -> Tensor:
        """x_0 from x_t and its noise."""
        return (noisy - self.noise_alpha.sqrt() * noise) / self.alpha.sqrt()

    def posterior(self, noisy: Tensor, noise: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the earlier x given x_t and a noise estimate (DDPM Eq. 7).

        weight: the model's variance output in [-1, 1], interpolating between the posterior's log variance and log beta
        (Nichol & Dhariwal 2021, Eq. 15); None = the true posterior's.
        """
        clean = self.clean(noisy, noise)
        mean = self.alpha_earlier.sqrt() * self.beta / self.noise_alpha * clean
        mean = mean + (1 - self.beta).sqrt() * (1 - self.alpha_earlier) / self.noise_alpha * noisy
        if weight is None:
            return mean, self.log_posterior_variance
        return mean, torch.lerp(self.log_posterior_variance, self.log_beta, (weight + 1) / 2)

    def deterministic_step(self, noisy: Tensor, noise: Tensor) -> Tensor:
        """The earlier x on the same trajectory (DDIM, Song et al. 2021, Eq. 12 with sigma 0)."""
        return self.alpha_earlier.sqrt() * self.clean(noisy, noise) + (1 - self.alpha_earlier).sqrt() * noise
