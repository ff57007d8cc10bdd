"""Schedulers of diffusers for what a Latte predicts: the one that is exported, and any other that a user swaps in."""

import copy
import inspect
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from latte.diffusion import Prediction
from latte.dpm_solver import DPM_SOLVER, Scheduler, chain_options, make_dpm_solver
from latte.latte import Latte
from latte.noise_schedule import NUM_TIMESTEPS

PREDICTION_TYPES = {"flow": "flow_prediction", "epsilon": "epsilon", "v": "v_prediction"}  # ours -> diffusers' name
REMEDIES = {
    "flow": "use FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler or DPMSolverMultistepScheduler",
    **dict.fromkeys(("epsilon", "v"), "use DDPMScheduler, DDIMScheduler or DPMSolverMultistepScheduler"),
}


def build_scheduler(model: Latte, method: str, time_shift: float) -> Scheduler:
    """The scheduler that walks as latte.sampler does with `method`; Euler for heun.

    Heun as diffusers has it is further from ours than its Euler is. Its DDIM steps by 1000 / steps whatever timesteps
    it has, so it gets those that lie so far apart, where ours reach from end to end.
    """
    objective, zero_terminal_snr = model.architecture.objective, model.architecture.zero_terminal_snr
    if method == DPM_SOLVER:
        return make_dpm_solver(objective, zero_terminal_snr, time_shift)
    if objective == "flow":
        return FlowMatchEulerDiscreteScheduler(shift=time_shift)
    options = chain_options(objective, zero_terminal_snr) | {"clip_sample": False}
    if method == "ddim":
        return DDIMScheduler(**options)
    variance = "learned_range" if objective == "epsilon" else "fixed_small"
    return DDPMScheduler(**options | {"timestep_spacing": "linspace", "variance_type": variance})


def fit_scheduler(scheduler: Scheduler, objective: str, steps: int) -> Scheduler:
    """A copy of any of diffusers' schedulers, set for what the transformer predicts and for `steps` steps.

    Raises ValueError for a scheduler that cannot be set so.
    """
    name, config = type(scheduler).__name__, scheduler.config
    is_made_for_flow = name.startswith("FlowMatch")
    takes_flow = is_made_for_flow or "use_flow_sigmas" in inspect.signature(type(scheduler)).parameters
    if (objective == "flow" and not takes_flow) or (objective != "flow" and is_made_for_flow):
        raise ValueError(f"{name} cannot sample a transformer that predicts {objective}: {REMEDIES[objective]}")
    changes: dict[str, Any] = {}
    if not is_made_for_flow:
        changes["prediction_type"] = PREDICTION_TYPES[objective]
        if objective == "flow" and not config["use_flow_sigmas"]:
            changes |= {"use_flow_sigmas": True, "flow_shift": config.get("shift", config["flow_shift"])}
        if config.get("variance_type") and not isinstance(scheduler, DDPMScheduler):
            changes["variance_type"] = None  # only DDPM reads the variance that the transformer predicts
    fitted = type(scheduler).from_config(config, **changes) if changes else copy.deepcopy(scheduler)
    if objective == "flow" and "sigmas" in inspect.signature(fitted.set_timesteps).parameters:
        fitted.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))  # even times from 1 to 0
    else:
        fitted.set_timesteps(steps)
    return fitted


def model_time(scheduler: Scheduler, objective: str, step: int) -> float:
    """The model's timestep at a step, in [0, 1000]; for flow some schedulers round theirs, but not the noise level."""
    if objective == "flow":
        return float(scheduler.sigmas[step]) * NUM_TIMESTEPS
    return float(scheduler.timesteps[step])


def scaled_input(scheduler: Scheduler, noisy: Tensor, timestep: Tensor) -> Tensor:
    """What the model sees of noisy (b, c, t, h, w): the schedulers for flow have nothing to scale."""
    return scheduler.scale_model_input(noisy, timestep) if hasattr(scheduler, "scale_model_input") else noisy


def take_step(
    scheduler: Scheduler,
    prediction: Prediction,
    part: str,
    timestep: Tensor,
    noisy: Tensor,
    generators: list[torch.Generator],
) -> Tensor:
    """One step of a part's scheduler on noisy (b, c, t, h, w); noise that it needs comes from the generators."""
    output = prediction.mean[part]
    if scheduler.config.get("variance_type") == "learned_range":
        output = torch.cat([output, prediction.variance[part]], dim=1)  # (b, 2 c, t, h, w)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generators} if draws else {}
    return scheduler.step(output, timestep, noisy, return_dict=False, **options)[0]
