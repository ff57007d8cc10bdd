"""The objectives `flow`, `epsilon` and `v` as free functions over {part: latent}.

Noise is drawn and errors are taken per PART, not per stream: a keyframe that the layout repeats has one noise for all
its copies, and what the layout pads reaches no loss.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from latte.embeddings import drop_labels
from latte.latent_layout import LatentLayout
from latte.latte import EARLY, Latte
from latte.noise_schedule import NUM_TIMESTEPS, Chain, Level, spread
from latte.times import Draws, Times, counted_share, draw_stream_times, draw_uniform

Parts = dict[str, Tensor]  # {part: (b, c, t, h, w)}
EARLY_WEIGHT = 0.5  # of the early head's loss (internal guidance, arXiv 2512.24176)


@dataclass(frozen=True)
class Prediction:
    """What the model says per part: its target and, with `epsilon`, the variance's interpolation weight."""

    mean: Parts
    variance: Parts = field(default_factory=dict)
    early: Parts = field(default_factory=dict)  # the mean by the early head, where it was asked for


def predict(
    model: Latte,
    noisy: Parts,
    timestep: Times,
    labels: Tensor | None,
    layout: LatentLayout | None = None,
    early: bool = False,
) -> Prediction:
    """Run the model on parts: pack, predict, unpack.

    timestep: (b,) in [0, 1000], or {stream: (b,)}; labels: (b,), null class allowed; layout: that of the parts, None =
    the model's own; early: also what the early head predicts.
    """
    layout = layout or model.layout
    streams = model(layout.pack(noisy), timestep, labels, early)
    own = {name: streams.pop(f"{name}{EARLY}") for name in list(streams) if f"{name}{EARLY}" in streams}
    first = layout.unpack(own) if own else {}
    if not model.predicts_variance:
        return Prediction(layout.unpack(streams), early=first)
    channels = {stream.name: [stream.channels, stream.channels] for stream in layout.streams}
    halves = {name: stream.split(channels[name], dim=1) for name, stream in streams.items()}
    mean = layout.unpack({name: half[0] for name, half in halves.items()})
    return Prediction(mean, layout.unpack({name: half[1] for name, half in halves.items()}), first)


def draw_noise(model: Latte, generators: Sequence[torch.Generator], device: torch.device) -> Parts:
    """Standard normal noise for every part, from each sample's own CPU generator, in the layout's order of parts."""
    batch = len(generators)
    return {
        part: randn_tensor((batch, *shape), generator=list(generators), device=device, dtype=torch.float32)
        for part, shape in model.layout.parts.items()
    }


def training_loss(model: Latte, latents: Parts, labels: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's loss with times, noise and dropped labels drawn through `draws`.

    latents: {part: (b, c, t, h, w)} whitened; labels: (b,) int64, -1 = none. Returns the loss and named scalars: the
    loss of each part (mean square error, over the samples in which it counts) and, for epsilon, the variational bound.
    """
    device = labels.device
    kept = draw_uniform(draws("label_dropout")).to(device)
    drawn = draw_stream_times(model, draws)
    batch: dict[str, Any] = {
        "latents": latents,
        "labels": drop_labels(labels, model.num_classes, model.training_options.label_dropout, kept),
        "times": _each(drawn.times, lambda times: times.to(device)),
        "noise": draw_noise(model, draws("noise"), device),
        "counted": _each(drawn.counted, lambda counted: counted.to(device)),
    }
    if drawn.is_image is None:
        loss, terms = loss_at(model, **batch)
    else:
        loss, terms = _loss_of_clips_and_images(model, batch, drawn.is_image)
    shares = {f"loss_{part}": counted_share(model, part) for part in latents}
    return loss, {name: value / (shares.get(name) or 1.0) for name, value in terms.items()}


def _loss_of_clips_and_images(
    model: Latte, batch: Mapping[str, Any], is_image: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Images and clips have different tokens, so each kind goes through the model apart; is_image: (b,), on the CPU."""
    losses = []
    for as_image in (False, True):
        rows = (is_image == as_image).nonzero().flatten()
        share = len(rows) / len(is_image)
        if as_image and not share:
            continue
        # without a clip one goes through for nothing: all processes need gradients of the same weights
        rows = (rows if share else torch.zeros(1, dtype=torch.long)).to(batch["labels"].device)
        own = _each(batch, partial(torch.index_select, dim=0, index=rows))
        losses.append((share, *loss_at(model, **own, as_image=as_image)))
    loss = torch.stack([share * own for share, own, _ in losses]).sum()
    return loss, {
        name: torch.stack([share * terms[name] for share, _, terms in losses if name in terms]).sum()
        for name in losses[0][2]
    }


def _each(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`values`, a tensor or nested dictionaries of tensors, with every tensor changed."""
    if isinstance(values, Tensor):
        return change(values)
    return {name: _each(value, change) for name, value in values.items()}


def loss_at(
    model: Latte,
    latents: Parts,
    labels: Tensor,
    times: Times,
    noise: Parts,
    counted: Mapping[str, Tensor] = MappingProxyType({}),
    as_image: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss at given times and noise; see `training_loss`.

    times: (b,) or {stream: (b,)} in [0, 1), negative = data; counted: {part: (b,)}, 0 where the loss of a part does not
    count, absent = 1; as_image: the first frame alone goes through the model. The mean is over all elements of whole
    clips, whether they count or not: an element that counts weighs the same in every batch.
    """
    options, layout = model.architecture, model.layout
    if as_image:
        layout, latents, noise = layout.of_image(), layout.image_parts(latents), layout.image_parts(noise)
    latents = {part: latents[part].float() for part in layout.parts}
    per_stream = {s.name: times if isinstance(times, Tensor) else times[s.name] for s in layout.streams}
    timesteps = {name: timestep_of(options.objective, own) for name, own in per_stream.items()}
    shown = {name: timestep.clamp(min=0).float() for name, timestep in timesteps.items()}
    homes = {part: stream.name for stream in layout.streams for part in stream.parts}
    # a part without frames has no stream and no elements: any time will do
    own_timestep = {part: timesteps[homes.get(part, layout.streams[0].name)] for part in latents}
    levels = {part: Level.of(options.objective, own_timestep[part], options.zero_terminal_snr) for part in latents}
    noisy = {part: levels[part].add_noise(x, noise[part]) for part, x in latents.items()}
    is_shared = isinstance(times, Tensor)
    time, has_early = shown[layout.streams[0].name] if is_shared else shown, bool(options.early_head)
    prediction = predict(model, noisy, time, labels, layout, has_early)

    errors, bounds, early_errors, terms = {}, {}, {}, {}
    for part, x in latents.items():
        level, counts = levels[part], spread(counted[part]) if part in counted else 1.0
        target = level.target(options.objective, x, noise[part])
        error = counts * (prediction.mean[part] - target).square()
        if has_early:
            early_errors[part] = counts * (prediction.early[part] - target).square()
        if error.numel():
            terms[f"loss_{part}"] = error.detach().mean()
        errors[part] = error
        if gamma := model.training_options.min_snr_gamma:
            weight = level.min_snr_weight(options.objective, gamma)
            errors[part] = error * weight
            if has_early:
                early_errors[part] = early_errors[part] * weight
        if model.predicts_variance:
            output = prediction.mean[part].detach(), prediction.variance[part]
            bounds[part] = counts * variational_bound(own_timestep[part], noisy[part], x, noise[part], *output)
    loss = weighted_mean(model, errors, len(labels))
    if has_early and torch.is_grad_enabled():  # held-out losses compare with those of models without
        loss = loss + EARLY_WEIGHT * weighted_mean(model, early_errors, len(labels))
    if bounds:
        bound = weighted_mean(model, bounds, len(labels))
        return loss + bound, {**terms, "bound": bound.detach()}
    return loss, terms


def timestep_of(objective: str, times: Tensor) -> Tensor:
    """Times (b,) in [0, 1), negative = data, as timesteps: real numbers for flow, int64 of the chain (-1 = data)."""
    if objective == "flow":
        return times * NUM_TIMESTEPS
    return torch.where(times < 0, -1, (times * NUM_TIMESTEPS).long())


def variational_bound(
    timestep: Tensor, noisy: Tensor, clean: Tensor, noise: Tensor, predicted_noise: Tensor, weight: Tensor
) -> Tensor:
    """The bound of Nichol & Dhariwal (2021), Eq. 4 to 6, in bits per element; it trains the variance only.

    timestep: (b,) int64; all others (b, c, t, h, w), `weight` the variance output in [-1, 1]. At t = 0 it is the
    density of the Gaussian decoder: the discretised one of DDPM Eq. 13 is for 8-bit pixels, and latents are continuous.
    """
    timestep = timestep.clamp(min=0)  # a clean part has no bound: its value is not counted, but must be a number
    chain, level = Chain.of(timestep, timestep - 1), Level.of("epsilon", timestep)
    estimate, true_clean = (level.clean_and_noise("epsilon", noisy, e)[0] for e in (predicted_noise, noise))
    mean, log_variance = chain.posterior(noisy, estimate, weight)
    true_mean, true_log_variance = chain.posterior(noisy, true_clean, None)
    divergence = gaussian_divergence(true_mean, true_log_variance, mean, log_variance)
    density = 0.5 * (math.log(2 * math.pi) + log_variance + (clean - mean).square() * torch.exp(-log_variance))
    return torch.where(spread(timestep == 0), density, divergence) / math.log(2)


def gaussian_divergence(mean_a: Tensor, log_variance_a: Tensor, mean_b: Tensor, log_variance_b: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(b) from N(a), per element, in nats."""
    difference = (mean_a - mean_b).square() * torch.exp(-log_variance_b)
    return 0.5 * (log_variance_b - log_variance_a - 1 + torch.exp(log_variance_a - log_variance_b) + difference)


def weighted_mean(model: Latte, values: Parts, batch: int) -> Tensor:
    """Mean of {part: (b, c, t, h, w)} over all elements of `batch` whole clips: a part weighs by its number of elements
    times its `part_weights`."""
    weights = {part: model.training_options.part_weights.get(part, 1.0) for part in values}
    total = torch.stack([weights[part] * value.sum() for part, value in values.items()]).sum()
    return total / sum(weights[part] * math.prod(shape) * batch for part, shape in model.layout.parts.items())
