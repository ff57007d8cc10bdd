"""Noise -> latents through the schedulers of diffusers, by the name of their class: DPM-Solver++, DDIM and others."""

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from einops import pack, unpack

from latte.diffusion import Parts
from latte.noise_schedule import BETA_FIRST, BETA_LAST, NUM_TIMESTEPS, Level
from latte.solvers import Observe, Predict

SCHEDULERS = {  # objective: class names
    "flow": ("DPMSolverMultistepScheduler",),
    "epsilon": ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"),
    "v": ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"),
}


def make_scheduler(name: str, objective: str, zero_terminal_snr: bool = False, shift: float = 1.0) -> Any:
    """The scheduler of diffusers called `name` with the noise schedule of the objective; shift: flow only.

    Raises ValueError for a scheduler that is not in SCHEDULERS[objective].
    """
    if name not in SCHEDULERS[objective]:
        raise ValueError(
            f"no scheduler {name!r} for objective {objective}: use one of {', '.join(SCHEDULERS[objective])}."
        )
    if objective == "flow":
        options: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    else:
        options = {
            "beta_start": BETA_FIRST,
            "beta_end": BETA_LAST,
            "beta_schedule": "linear",
            "prediction_type": "v_prediction" if objective == "v" else "epsilon",
            "timestep_spacing": "trailing",  # the first step is at the last timestep (Lin et al. 2024, Table 2)
            "rescale_betas_zero_snr": zero_terminal_snr,
        }
        if name in ("DDPMScheduler", "DDIMScheduler"):
            options["clip_sample"] = False
        if name == "DDPMScheduler":
            options["variance_type"] = "learned_range" if objective == "epsilon" else "fixed_small"
    return getattr(diffusers, name)(num_train_timesteps=NUM_TIMESTEPS, **options)


def walk_scheduler(
    scheduler: Any,
    predict: Predict,
    noise: Parts,
    steps: int,
    objective: str,
    generators: Sequence[torch.Generator],
    zero_terminal_snr: bool = False,
    given: Mapping[str, torch.Tensor] | None = None,
    observe: Observe | None = None,
) -> Parts:
    """Step `scheduler` from noise {part: (b, c, t, h, w)} to data.

    All parts of a sample are one flat row, so that the scheduler draws a sample's noise from its own CPU generator.
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
        outputs = [prediction.mean]
        if getattr(scheduler.config, "variance_type", None) == "learned_range":
            outputs.append(prediction.variance)
        rows, shapes = pack(list(x.values()), "b *")
        output = torch.cat([pack([values[part] for part in x], "b *")[0] for values in outputs], dim=1)
        rows = scheduler.step(output, timestep, rows, generator=list(generators)).prev_sample
        x = dict(zip(x, unpack(rows, shapes, "b *"), strict=True))
    return x | given
