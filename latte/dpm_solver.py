"""Noise -> latents by DPM-Solver++ (Lu et al. 2022) as diffusers has it: fewer steps than our own samplers take."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from einops import pack, unpack

from latte.diffusion import Parts
from latte.noise_schedule import BETA_FIRST, BETA_LAST, NUM_TIMESTEPS, Level
from latte.solvers import Observe, Predict

Scheduler = Any  # of diffusers: they share methods, not a type
DPM_SOLVER = "DPMSolverMultistepScheduler"  # its name as a `sample.method`


def chain_options(objective: str, zero_terminal_snr: bool = False) -> dict[str, Any]:
    """The noise schedule of `epsilon` and `v` in the words of diffusers, for any of its schedulers."""
    return {
        "num_train_timesteps": NUM_TIMESTEPS,
        "beta_start": BETA_FIRST,
        "beta_end": BETA_LAST,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction" if objective == "v" else "epsilon",
        "timestep_spacing": "trailing",  # the first step is at the last timestep (Lin et al. 2024, Table 2)
        "rescale_betas_zero_snr": zero_terminal_snr,
    }


def make_dpm_solver(objective: str, zero_terminal_snr: bool = False, shift: float = 1.0) -> Scheduler:
    """The solver with the noise schedule of the objective; shift: flow only."""
    if objective != "flow":
        return diffusers.DPMSolverMultistepScheduler(**chain_options(objective, zero_terminal_snr))
    return diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=NUM_TIMESTEPS, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    )


def walk_dpm_solver(
    scheduler: Scheduler,
    predict: Predict,
    noise: Parts,
    steps: int,
    objective: str,
    zero_terminal_snr: bool = False,
    given: Mapping[str, torch.Tensor] | None = None,
    observe: Observe | None = None,
) -> Parts:
    """Step `scheduler` from noise {part: (b, c, t, h, w)} to data, all parts of a sample as one flat row.

    given: parts that are data from the beginning and stay what they are.
    """
    given, data = given or {}, 0.0 if objective == "flow" else -1.0
    scheduler.set_timesteps(steps, device=next(iter(noise.values())).device)
    x = dict(noise)
    for index, timestep in enumerate(scheduler.timesteps):
        # for flow the scheduler rounds its timesteps; its sigmas are exact
        time = float(scheduler.sigmas[index]) * NUM_TIMESTEPS if objective == "flow" else float(timestep)
        x |= given
        prediction = predict(x, {part: data if part in given else time for part in x})
        if observe:
            level = Level.of(objective, torch.tensor([time], device=timestep.device), zero_terminal_snr)
            clean = {part: level.clean_and_noise(objective, x[part], prediction.mean[part])[0] for part in x}
            observe(index + 1, {**clean, **given})
        rows, shapes = pack(list(x.values()), "b *")
        output, _ = pack([prediction.mean[part] for part in x], "b *")
        rows = scheduler.step(output, timestep, rows).prev_sample
        x = dict(zip(x, unpack(rows, shapes, "b *"), strict=True))
    return x | given
