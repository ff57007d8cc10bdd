"""Noise -> latents by our own samplers: Euler and Heun for flow, DDPM and DDIM for epsilon and v.

Every part has a timestep of its own at every step, so that a keyframe can be given, or be denoised ahead of the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch

from latte.diffusion import Parts, Prediction
from latte.latent_layout import KEYFRAME
from latte.noise_schedule import NUM_TIMESTEPS, Chain, Level

Timesteps = Mapping[str, float]  # {part: timestep}; flow: 1000 = noise, 0 = data; chain: 999 = noise, -1 = data
Predict = Callable[[Parts, Timesteps], Prediction]
Observe = Callable[[int, Parts], None]  # number of finished steps and the model's estimate of the clean latents


def shifted_times(count: int, shift: float) -> list[float]:
    """`count` times from 1 (noise) to 0 (data): shift u / (1 + (shift - 1) u) of even u (Esser et al. 2024)."""
    even = [1 - i / (count - 1) for i in range(count)] if count > 1 else [1.0]
    return [shift * u / (1 + (shift - 1) * u) for u in even]


def own_timesteps(objective: str, steps: int, shift: float) -> list[float]:
    """The timesteps of one part that takes all `steps` steps, from noise to data: `steps` + 1 numbers, or fewer where
    so many of the chain's timesteps would coincide."""
    if objective == "flow":
        return [NUM_TIMESTEPS * time for time in shifted_times(steps + 1, shift)]
    return [*sorted({round((NUM_TIMESTEPS - 1) * t) for t in shifted_times(steps, shift)}, reverse=True), -1]


def part_timesteps(
    parts: Sequence[str], objective: str, steps: int, shift: float, lead: float = 0.0, given_keyframe: bool = False
) -> list[Timesteps]:
    """The timesteps {part: timestep} between which a sampler steps.

    lead: share of the steps by which the keyframe runs ahead of the other parts; 0.5: first the keyframe, then the
    rest. given_keyframe: the keyframe is data from the beginning.
    """
    ahead = 0 if given_keyframe else round(steps * lead)
    own = own_timesteps(objective, steps - ahead, shift)
    columns = {part: [own[0]] * ahead + own for part in parts}
    if KEYFRAME in columns:
        columns[KEYFRAME] = [own[-1]] * len(own) if given_keyframe else own + [own[-1]] * ahead
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def solve_flow(
    predict: Predict, noise: Parts, timesteps: Sequence[Timesteps], heun: bool, observe: Observe | None = None
) -> Parts:
    """Integrate dx/dt = velocity(x, t) over `timesteps` by Euler's or Heun's method (1 or 2 evaluations a step)."""
    x = noise
    for done, (now, following) in enumerate(pairwise(timesteps), start=1):
        slope = predict(x, now).mean
        if observe:
            observe(done, {part: x[part] - now[part] / NUM_TIMESTEPS * slope[part] for part in x})
        step = {part: (following[part] - now[part]) / NUM_TIMESTEPS for part in x}
        end = {part: x[part] + step[part] * slope[part] for part in x}
        if heun:
            slope_at_end = predict(end, following).mean
            end = {part: x[part] + step[part] / 2 * (slope[part] + slope_at_end[part]) for part in x}
        x = end
    return x


def walk_chain(
    predict: Predict,
    noise: Parts,
    timesteps: Sequence[Timesteps],
    objective: str,
    zero_terminal_snr: bool = False,
    draw: Callable[[], Parts] | None = None,
    observe: Observe | None = None,
) -> Parts:
    """Walk the DDPM chain over descending `timesteps` to the data.

    `draw` gives each step's noise (DDPM, Ho et al. 2020, with the variance that the model predicts, or else that of the
    posterior); None walks without noise (DDIM, Song et al. 2021, Eq. 12 with sigma 0).
    """
    x = dict(noise)
    device = next(iter(noise.values())).device
    for done, (now, following) in enumerate(pairwise(timesteps), start=1):
        prediction = predict(x, now)
        fresh = draw() if draw and max(following.values()) >= 0 else {}
        estimates = dict(x)
        for part in x:
            if now[part] < 0:  # given, or finished ahead of the others
                continue
            is_waiting = int(following[part]) == int(now[part])  # for the others; known without asking the device
            timestep, earlier = (torch.tensor([int(at[part])], device=device) for at in (now, following))
            level = Level.of(objective, timestep, zero_terminal_snr)
            clean, own_noise = level.clean_and_noise(objective, x[part], prediction.mean[part])
            estimates[part] = clean
            if is_waiting:
                continue
            chain = Chain.of(timestep, earlier, zero_terminal_snr)
            if draw is None:
                x[part] = chain.deterministic_step(clean, own_noise)
                continue
            mean, log_variance = chain.posterior(x[part], clean, prediction.variance.get(part))
            x[part] = mean + torch.exp(0.5 * log_variance) * fresh[part] if following[part] >= 0 else mean
        if observe:
            observe(done, estimates)
    return x
