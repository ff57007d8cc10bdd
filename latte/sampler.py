"""Labels -> latents, by our own samplers (`solvers.py`) or by DPM-Solver++ (`dpm_solver.py`).

Every sample has its own seed and draws all its noise on the CPU, so a result does not depend on its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import torch
from einops import rearrange

from latte.diffusion import Parts, draw_noise
from latte.dpm_solver import DPM_SOLVER, make_dpm_solver, walk_dpm_solver
from latte.guidance import Guidance, guided_prediction
from latte.latent_layout import KEYFRAME
from latte.latte import Latte
from latte.noise_schedule import NUM_TIMESTEPS
from latte.solvers import part_timesteps, solve_flow, walk_chain
from latte.whitening import unwhiten, whiten

METHODS = {  # of each objective; `auto` takes the first
    "flow": ("euler", "heun", DPM_SOLVER),
    "epsilon": ("ddpm", "ddim", DPM_SOLVER),
    "v": ("ddim", "ddpm", DPM_SOLVER),
}
KNOWN_METHODS = ("auto", *dict.fromkeys(method for methods in METHODS.values() for method in methods))
Callback = Callable[[int, int, Parts], None]


@dataclass(frozen=True)
class SamplerConfig:
    """How latents are sampled."""

    steps: int = 50  # steps from noise to data (heun evaluates the model twice in each)
    method: str = "auto"  # euler, heun (flow), ddpm, ddim (epsilon, v), or DPMSolverMultistepScheduler (all)
    guidance_scale: float = 2.0  # strength of the class; 1 = off, the only choice for an unconditional model
    guidance_low: float = 0.0  # guide only above this noise level, from 0 (data) to 1 (noise)
    guidance_high: float = 1.0  # guide only below this noise level
    internal_scale: float = 1.0  # strength of internal guidance, away from the model's early head; 1 = off
    internal_low: float = 0.0  # guide internally only above this noise level
    cfg_channels: int = 0  # guide only the first channels of every stream (4: as Latte's published code); 0 = all
    time_shift: float = 1.0  # above 1: more of the steps at high noise
    keyframe_lead: float = 0.0  # share of the steps by which the keyframe is denoised ahead of the rest, up to 0.5

    def __post_init__(self) -> None:
        if self.method not in KNOWN_METHODS:
            raise ValueError(f"sample.method is {self.method!r}, expected one of {', '.join(KNOWN_METHODS)}.")

    def method_for(self, model: Latte, weak_model: Latte | None = None) -> str:
        """The method for this model; raises ValueError for settings that do not fit it."""
        options = model.architecture
        methods = METHODS[options.objective]
        if self.method not in ("auto", *methods):
            raise ValueError(
                f"sample.method is {self.method!r}, but a model trained with objective {options.objective} needs auto, "
                f"{', '.join(methods[:-1])} or {methods[-1]}."
            )
        method = methods[0] if self.method == "auto" else self.method
        if not 1 <= self.steps <= NUM_TIMESTEPS:
            raise ValueError(f"sample.steps is {self.steps}, choose from 1 to {NUM_TIMESTEPS}.")
        if self.cfg_channels < 0:
            raise ValueError(f"sample.cfg_channels is {self.cfg_channels}, choose 0 (all) or a number of channels.")
        if self.time_shift <= 0 or (self.time_shift != 1 and method == DPM_SOLVER and options.objective != "flow"):
            raise ValueError(
                f"sample.time_shift is {self.time_shift}, choose a positive number, and 1 with {method} for objective "
                f"{options.objective}."
            )
        if not 0 <= self.keyframe_lead <= 0.5 or (self.keyframe_lead and method == DPM_SOLVER):
            raise ValueError(
                f"sample.keyframe_lead is {self.keyframe_lead}, choose a share from 0 to 0.5, and 0 with {method}."
            )
        if self.keyframe_lead and not model.training_options.independent_times_share:
            raise ValueError(
                f"sample.keyframe_lead is {self.keyframe_lead}, but the model never saw a keyframe with less noise "
                "than the rest: use 0, or train with latte.independent_times_share above 0."
            )
        if self.internal_scale != 1 and not options.early_head:
            raise ValueError(
                f"sample.internal_scale is {self.internal_scale}, but the model has no early head: use 1, or train "
                "with latte.early_head above 0."
            )
        self._check_guidance(model, weak_model)
        return method

    def _check_guidance(self, model: Latte, weak_model: Latte | None) -> None:
        if weak_model:
            for name, value in _predicted_from(model).items():
                if value != _predicted_from(weak_model)[name]:
                    raise ValueError(
                        f"the guiding model has other {name} than the model: use one trained on the same cache."
                    )
        elif self.guidance_scale != 1 and not model.num_classes:
            raise ValueError(
                f"sample.guidance_scale is {self.guidance_scale}, but the model has no classes: set it to 1."
            )
        elif self.guidance_scale != 1 and not model.training_options.label_dropout:
            raise ValueError(
                f"sample.guidance_scale is {self.guidance_scale}, but the model was trained with latte.label_dropout=0 "
                "and never saw clips without a class: use 1."
            )


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
    weak_model: Latte | None = None,
    first_frame: Parts | None = None,
    noise: Parts | None = None,
    callback: Callback | None = None,
) -> Iterator[Sample]:
    """Yield one sample per label, in order; `labels[i]` is -1 for no class, `seeds[i]` decides all of its noise.

    weak_model: a smaller or earlier model to guide away from, in place of the model without a class.
    first_frame: {"keyframe": (n or 1, c, t, h, w)} in the VAE's own scale, kept as it is; the rest is made for it.
    noise: {part: (n, c, t, h, w)} to begin with, in place of the seeds' (see `interpolate_noise`).
    callback(step, num_steps, clean): after every step of a batch, with the model's estimate of the finished latents
    {part: (b, c, t, h, w)} in the VAE's own scale.
    Raises ValueError for unknown labels and for settings that do not fit the model.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"got {len(labels)} labels and {len(seeds)} seeds, expected one seed per label.")
    config.method_for(model, weak_model)
    unknown = sorted({int(label) for label in labels if not -1 <= label < max(model.num_classes, 1)})
    if unknown:
        raise ValueError(f"no class has number {unknown}: the model has {model.num_classes} classes, numbered from 0.")
    if first_frame:
        check_first_frame(model, first_frame, len(labels))
    known = [model.num_classes if label < 0 else int(label) for label in labels]
    for start in range(0, len(known), batch_size):
        rows = slice(start, min(start + batch_size, len(known)))
        given = {part: x if len(x) == 1 else x[rows] for part, x in (first_frame or {}).items()}
        latents = sample_batch(
            model,
            known[rows],
            seeds[rows],
            config,
            device,
            weak_model,
            given,
            {part: x[rows] for part, x in noise.items()} if noise else None,
            callback,
        )
        for row, index in enumerate(range(rows.start, rows.stop)):
            own = {part: latent[row] for part, latent in latents.items()}
            yield Sample(index=index, label=known[index], seed=int(seeds[index]), latents=own)


@torch.no_grad()
def sample_batch(
    model: Latte,
    labels: Sequence[int],
    seeds: Sequence[int],
    config: SamplerConfig,
    device: torch.device,
    weak_model: Latte | None = None,
    first_frame: Parts | None = None,
    noise: Parts | None = None,
    callback: Callback | None = None,
) -> Parts:
    """Latents {part: (b, c, t, h, w)} for one batch, un-whitened, on the CPU; see `generate`."""
    method, options = config.method_for(model, weak_model), model.architecture
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    drawn = draw_noise(model, generators, device)  # drawn in any case: what is drawn later must not depend on `noise`
    x = {part: noise[part].to(device, torch.float32) for part in drawn} if noise else drawn
    given = {
        part: latent.to(device).expand(len(labels), -1, -1, -1, -1)
        for part, latent in whiten(model, first_frame or {}).items()
    }
    guidance = Guidance(
        *(config.guidance_scale, config.guidance_low, config.guidance_high, config.cfg_channels, weak_model),
        *(config.internal_scale, config.internal_low),
    )
    predict = partial(guided_prediction, model, labels=torch.tensor(labels, device=device), guidance=guidance)
    parts, objective = list(model.layout.parts), options.objective
    timesteps = part_timesteps(parts, objective, config.steps, config.time_shift, config.keyframe_lead, bool(given))

    def observe(step: int, clean: Parts) -> None:
        if callback:
            callback(step, len(timesteps) - 1, unwhiten(model, clean))

    seen = observe if callback else None
    if method == DPM_SOLVER:
        scheduler = make_dpm_solver(objective, options.zero_terminal_snr, config.time_shift)
        latents = walk_dpm_solver(
            scheduler, predict, x, config.steps, objective, options.zero_terminal_snr, given, seen
        )
    elif objective == "flow":
        latents = solve_flow(predict, x | given, timesteps, method == "heun", seen)
    else:
        draw = partial(draw_noise, model, generators, device) if method == "ddpm" else None
        latents = walk_chain(predict, x | given, timesteps, objective, options.zero_terminal_snr, draw, seen)
    kept = {part: latent.expand(len(labels), -1, -1, -1, -1) for part, latent in (first_frame or {}).items()}
    return unwhiten(model, latents) | {part: latent.float().cpu() for part, latent in kept.items()}


def check_first_frame(model: Latte, first_frame: Parts, num_samples: int) -> None:
    """Raise ValueError where latents {"keyframe": (n or 1, c, t, h, w)} cannot be the given first frame."""
    options, shape = model.training_options, model.layout.parts.get(KEYFRAME)
    if set(first_frame) != {KEYFRAME} or not options.clean_keyframe_share + options.independent_times_share:
        raise ValueError(
            f"a first frame was given as the parts {sorted(first_frame)}, but needs a model trained on clips with a "
            f"clean {KEYFRAME}: train with latte.clean_keyframe_share above 0 in a layout that has the keyframe apart."
        )
    got = tuple(first_frame[KEYFRAME].shape)
    if got[1:] != shape or got[0] not in (1, num_samples):
        raise ValueError(
            f"the latents of the first frame have shape {got}, expected {shape} for each or all of {num_samples} "
            "samples: encode it with the autoencoder of the cache at the size of its clips."
        )


def initial_noise(model: Latte, seed: int) -> Parts:
    """The noise that `generate` begins with for a seed, {part: (1, c, t, h, w)} on the CPU."""
    return draw_noise(model, [torch.Generator().manual_seed(int(seed))], torch.device("cpu"))


def interpolate_noise(model: Latte, seed: int, other_seed: int, count: int) -> Parts:
    """`count` noises {part: (count, c, t, h, w)} evenly on the arc from one seed's to another's, each part on its own.

    On the arc (Shoemake 1985, slerp) and not on the line: noise between two others must be as strong as they are.
    """
    ends = zip(initial_noise(model, seed).items(), initial_noise(model, other_seed).values(), strict=True)
    weights = rearrange(torch.linspace(0, 1, count), "n -> n 1 1 1 1")
    arc = {}
    for (part, start), end in ends:
        cosine = (start * end).sum() / (start.norm() * end.norm()).clamp(min=1e-12)
        angle = torch.acos(cosine.clamp(-1, 1))
        shares = [torch.sin((1 - weights) * angle), torch.sin(weights * angle)]
        arc[part] = (
            (shares[0] * start + shares[1] * end) / torch.sin(angle) if angle > 1e-3 else start.lerp(end, weights)
        )
    return arc


def _predicted_from(model: Latte) -> dict[str, object]:
    """What two models must share for the difference of their predictions to mean anything."""
    options = model.architecture
    parts = {part: [list(own[key]) for key in ("shape", "mean", "std")] for part, own in options.parts.items()}
    noise = (options.objective, options.zero_terminal_snr)
    return {"objective": noise, "classes": list(options.classes), "latent parts": parts}
