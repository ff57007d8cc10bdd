"""Labels -> latents: Euler and Heun for flow models, DDPM and DDIM for epsilon models.

Every sample has its own seed and draws all its noise on the CPU, so a result does not depend on its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import torch
from einops import rearrange

from latte.diffusion import NUM_TIMESTEPS, Chain, Parts, Prediction, draw_noise
from latte.guidance import guided_prediction
from latte.latte import Latte

METHODS = {"flow": ("euler", "heun"), "epsilon": ("ddpm", "ddim")}  # the first is what `auto` takes


@dataclass(frozen=True)
class SamplerConfig:
    """How latents are sampled."""

    steps: int = 50  # steps from noise to data (heun evaluates the model twice in each)
    method: str = "auto"  # auto, euler or heun (flow), ddpm or ddim (epsilon)
    guidance_scale: float = 2.0  # strength of the class; 1 = off, the only choice for an unconditional model
    guidance_low: float = 0.0  # guide only above this noise level, from 0 (data) to 1 (noise)
    guidance_high: float = 1.0  # guide only below this noise level
    time_shift: float = 1.0  # above 1: more of the steps at high noise

    def method_for(self, model: Latte) -> str:
        """The method for this model; raises ValueError for settings that do not fit it."""
        methods = METHODS[model.architecture.objective]
        if self.method not in ("auto", *methods):
            raise ValueError(
                f"sample.method is {self.method!r}, but a model trained with objective {model.architecture.objective} "
                f"needs auto, {' or '.join(methods)}."
            )
        if not 1 <= self.steps <= NUM_TIMESTEPS:
            raise ValueError(f"sample.steps is {self.steps}, choose from 1 to {NUM_TIMESTEPS}.")
        if self.time_shift <= 0:
            raise ValueError(f"sample.time_shift is {self.time_shift}, choose a positive number.")
        if self.guidance_scale != 1 and not model.num_classes:
            raise ValueError(
                f"sample.guidance_scale is {self.guidance_scale}, but the model has no classes: set it to 1."
            )
        if self.guidance_scale != 1 and not model.architecture.label_dropout:
            raise ValueError(
                f"sample.guidance_scale is {self.guidance_scale}, but the model was trained with latte.label_dropout=0 "
                "and never saw clips without a class: use 1."
            )
        return methods[0] if self.method == "auto" else self.method


class Sample(TypedDict):
    """One generated clip's latents {part: (c, t, h, w)}, in the VAE's own scale, float32 on the CPU."""

    index: int
    label: int  # the null class, `num_classes`, where none was asked for
    seed: int
    latents: Parts


def generate(
    model: Latte,
    labels: Sequence[int],
    seeds: Sequence[int],
    config: SamplerConfig,
    batch_size: int,
    device: torch.device,
) -> Iterator[Sample]:
    """Yield one sample per label, in order; `labels[i]` is -1 for no class, `seeds[i]` decides all of its noise.

    Raises ValueError for unknown labels and for settings that do not fit the model.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"got {len(labels)} labels and {len(seeds)} seeds, expected one seed per label.")
    config.method_for(model)
    unknown = sorted({int(label) for label in labels if not -1 <= label < max(model.num_classes, 1)})
    if unknown:
        raise ValueError(f"no class has number {unknown}: the model has {model.num_classes} classes, numbered from 0.")
    known = [model.num_classes if label < 0 else int(label) for label in labels]
    for start in range(0, len(known), batch_size):
        stop = min(start + batch_size, len(known))
        latents = sample_batch(model, known[start:stop], seeds[start:stop], config, device)
        for row, index in enumerate(range(start, stop)):
            own = {part: latent[row] for part, latent in latents.items()}
            yield Sample(index=index, label=known[index], seed=int(seeds[index]), latents=own)


@torch.no_grad()
def sample_batch(
    model: Latte, labels: Sequence[int], seeds: Sequence[int], config: SamplerConfig, device: torch.device
) -> Parts:
    """Latents {part: (b, c, t, h, w)} for one batch, un-whitened, on the CPU."""
    method = config.method_for(model)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    draw = partial(draw_noise, model, generators, device)
    predict = partial(
        guided_prediction,
        model,
        labels=torch.tensor(labels, device=device),
        scale=config.guidance_scale,
        interval=(config.guidance_low, config.guidance_high),
    )
    noise = draw()
    if method in METHODS["flow"]:
        times = shifted_times(config.steps + 1, config.time_shift)
        latents = solve_flow(lambda x, time: predict(x, time * NUM_TIMESTEPS).mean, noise, times, method == "heun")
    else:
        times = shifted_times(config.steps, config.time_shift)
        timesteps = sorted({round(time * (NUM_TIMESTEPS - 1)) for time in times}, reverse=True)
        latents = walk_chain(predict, noise, timesteps, draw if method == "ddpm" else None)
    return unwhiten(model, latents)


def shifted_times(count: int, shift: float) -> list[float]:
    """`count` times from 1 (noise) to 0 (data): shift u / (1 + (shift - 1) u) of even u (Esser et al. 2024)."""
    even = [1 - i / (count - 1) for i in range(count)] if count > 1 else [1.0]
    return [shift * u / (1 + (shift - 1) * u) for u in even]


def solve_flow(velocity: Callable[[Parts, float], Parts], noise: Parts, times: Sequence[float], heun: bool) -> Parts:
    """Integrate dx/dt = velocity(x, t) over `times` by Euler's or Heun's method (1 or 2 evaluations a step)."""
    x = noise
    for time, following in zip(times[:-1], times[1:], strict=True):
        slope = velocity(x, time)
        step = following - time
        end = {part: x[part] + step * slope[part] for part in x}
        if heun:
            slope_at_end = velocity(end, following)
            end = {part: x[part] + step / 2 * (slope[part] + slope_at_end[part]) for part in x}
        x = end
    return x


def walk_chain(
    predict: Callable[[Parts, float], Prediction],
    noise: Parts,
    timesteps: Sequence[int],
    draw: Callable[[], Parts] | None,
) -> Parts:
    """Walk the DDPM chain over descending `timesteps` to the data.

    `draw` gives each step's noise (DDPM, Ho et al. 2020, with the variance that the model predicts); None walks without
    noise (DDIM, Song et al. 2021, Eq. 12 with sigma 0).
    """
    x = dict(noise)
    device = next(iter(noise.values())).device
    for timestep, earlier in zip(timesteps, (*timesteps[1:], -1), strict=True):
        chain = Chain.of(torch.tensor([timestep], device=device), torch.tensor([earlier], device=device))
        prediction = predict(x, float(timestep))
        fresh = draw() if draw and earlier >= 0 else None
        for part in x:
            epsilon = prediction.mean[part]
            if draw is None:
                x[part] = chain.deterministic_step(x[part], epsilon)
                continue
            mean, log_variance = chain.posterior(x[part], epsilon, prediction.variance[part])
            x[part] = mean + torch.exp(0.5 * log_variance) * fresh[part] if fresh else mean
    return x


def unwhiten(model: Latte, latents: Parts) -> Parts:
    """Undo the cache's whitening: times std plus mean, per channel of each part; float32 on the CPU."""
    raw = {}
    for part, latent in latents.items():
        mean, std = (torch.tensor(model.architecture.parts[part][key]) for key in ("mean", "std"))
        raw[part] = latent.float().cpu() * rearrange(std, "c -> c 1 1 1") + rearrange(mean, "c -> c 1 1 1")
    return raw
