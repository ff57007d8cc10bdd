"""Samplers on data whose exact score is known: mean and spread, modes of a mixture, order of convergence."""

import math
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from latte.diffusion import Prediction
from latte.dpm_solver import DPM_SOLVER, make_dpm_solver, walk_dpm_solver
from latte.sampler import METHODS
from latte.solvers import part_timesteps, shifted_times, solve_flow, walk_chain

MEAN, STD = 3.0, 0.5
CASES = [(objective, method, False) for objective, methods in METHODS.items() for method in methods]
CASES += [("v", method, True) for method in METHODS["v"]]
SHAPES = {"keyframe": (2, 1, 8, 8), "motion": (1, 2, 8, 8)}


@cache
def alphas(zero_terminal_snr: bool) -> torch.Tensor:
    """Cumulative alphas by diffusers, with data in front."""
    own = DDIMScheduler(beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=zero_terminal_snr).alphas_cumprod
    return torch.cat([torch.ones(1), own]).double()


def exact(objective, zero_terminal_snr, x, timesteps, expected_clean):
    """The best prediction per part, from E[x_0 | x_t] as `expected_clean(x, signal, noise)` gives it."""
    mean = {}
    for part, value in x.items():
        if objective == "flow":
            noise_level = max(timesteps[part], 0) / 1000
            signal = 1 - noise_level
        else:
            alpha = alphas(zero_terminal_snr)[int(timesteps[part]) + 1].item()
            signal, noise_level = alpha**0.5, (1 - alpha) ** 0.5
        if noise_level == 0:  # Heun's last evaluation lies there; no other sampler may look at what is finished
            mean[part] = -value if objective == "flow" else torch.full_like(value, torch.nan)
            continue
        clean = expected_clean(value, signal, noise_level)
        noise = (value - signal * clean) / noise_level
        targets = {"flow": noise - clean, "epsilon": noise, "v": signal * noise - noise_level * clean}
        mean[part] = targets[objective]
    variance = {part: torch.full_like(value, -1.0) for part, value in x.items()} if objective == "epsilon" else {}
    return Prediction(mean, variance)


def gaussian(x, signal, noise):
    return MEAN + signal * STD**2 * (x - signal * MEAN) / (signal**2 * STD**2 + noise**2)


def draw(generators, shapes=SHAPES):
    rows = [{part: torch.randn(shape, generator=g) for part, shape in shapes.items()} for g in generators]
    return {part: torch.stack([row[part] for row in rows]) for part in shapes}


def sample(objective, method, zero, expected_clean, batch, steps, shapes=SHAPES, lead=0.0, given=None, observe=None):
    generators = [torch.Generator().manual_seed(i) for i in range(batch)]
    noise, predict = draw(generators, shapes), partial(exact, objective, zero, expected_clean=expected_clean)
    if method == DPM_SOLVER:
        scheduler = make_dpm_solver(objective, zero)
        return noise, walk_dpm_solver(scheduler, predict, noise, steps, objective, zero, given, observe)
    timesteps = part_timesteps(list(shapes), objective, steps, 1.0, lead, bool(given))
    if objective == "flow":
        return noise, solve_flow(predict, noise | (given or {}), timesteps, method == "heun", observe)
    fresh = partial(draw, generators, shapes) if method == "ddpm" else None
    return noise, walk_chain(predict, noise | (given or {}), timesteps, objective, zero, fresh, observe)


@pytest.mark.parametrize(("objective", "method", "zero"), CASES)
def test_every_sampler_reaches_the_data_distribution(objective, method, zero):
    noise, result = sample(objective, method, zero, gaussian, batch=64, steps=100)
    for part in SHAPES:  # the DDPM's variance is the smaller of its two bounds here: in 100 steps a little is missing
        assert abs(result[part].mean() - MEAN) < 0.03
        assert abs(result[part].std() - STD) < (0.04 if "ddpm" in method.lower() else 0.03)
        if not method.lower().startswith("ddpm"):  # each noise goes to its own place
            assert (result[part] - MEAN - STD * noise[part]).abs().max() < 0.15


def test_the_flow_methods_converge_with_their_order():
    """Heun's error falls with the square of its step, Euler's with the step."""
    errors = {}
    for method, steps in (("euler", 50), ("euler", 100), ("heun", 50), ("heun", 100)):
        noise, result = sample("flow", method, False, gaussian, 4, steps)
        errors[method, steps] = (result["motion"] - MEAN - STD * noise["motion"]).abs().max().item()
    assert 1.8 < errors["euler", 50] / errors["euler", 100] < 2.2
    assert 3 < errors["heun", 50] / errors["heun", 100] < 5
    assert errors["heun", 100] < 2e-3


MODES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
WEIGHTS, SPREAD = torch.tensor([0.5, 0.25, 0.25]), 0.3


def mixture(x, signal, noise):
    """E[x_0 | x_t] of three Gaussians in the plane; x: (b, 2, 1, h, w)."""
    variance = signal**2 * SPREAD**2 + noise**2
    offset = x.unsqueeze(0) - signal * MODES.reshape(3, 1, 2, 1, 1, 1)  # (3, b, 2, 1, h, w)
    logits = WEIGHTS.log().reshape(3, 1, 1, 1, 1, 1) - offset.square().sum(2, keepdim=True) / (2 * variance)
    means = MODES.reshape(3, 1, 2, 1, 1, 1) + signal * SPREAD**2 / variance * offset
    return (logits.softmax(0) * means).sum(0)


@pytest.mark.parametrize(
    ("objective", "method"),
    [("flow", "heun"), ("flow", DPM_SOLVER), ("epsilon", "ddpm"), ("v", "ddim"), ("v", "ddpm")],
)
def test_modes_of_a_mixture_in_the_plane(objective, method):
    shapes = {"keyframe": (2, 1, 16, 16)}
    _, result = sample(objective, method, False, mixture, batch=16, steps=100, shapes=shapes)
    points = result["keyframe"].movedim(1, -1).reshape(-1, 2)  # 4096 points
    distances = torch.cdist(points, MODES)
    nearest = distances.argmin(1)
    shares = nearest.bincount(minlength=3) / len(points)
    assert (shares - WEIGHTS).abs().max() < 0.04
    assert (distances.min(1).values < 4 * SPREAD).float().mean() > 0.995
    for mode in range(3):
        offset = points[nearest == mode] - MODES[mode]
        assert offset.mean(0).abs().max() < 0.05 and abs(offset.std() - SPREAD) < 0.04


@pytest.mark.parametrize(("objective", "method"), [("flow", "euler"), ("v", "ddim"), ("epsilon", "ddpm")])
def test_a_keyframe_ahead_and_a_given_keyframe(objective, method):
    """Whatever the order of the parts, each reaches its distribution; a given part stays what it is, to the bit."""
    _, result = sample(objective, method, False, gaussian, batch=64, steps=120, lead=0.5)
    for part in SHAPES:
        assert abs(result[part].mean() - MEAN) < 0.05 and abs(result[part].std() - STD) < 0.06
    given = {"keyframe": torch.full((64, *SHAPES["keyframe"]), 7.0)}
    _, result = sample(objective, method, False, gaussian, batch=64, steps=60, given=given)
    assert torch.equal(result["keyframe"], given["keyframe"])
    assert abs(result["motion"].mean() - MEAN) < 0.05


def test_timesteps_of_the_parts():
    def columns(*arguments, **options):
        rows = part_timesteps(["keyframe", "motion"], *arguments, **options)
        return [[row[part] for row in rows] for part in ("keyframe", "motion")]

    assert columns("flow", 2, 1.0) == [[1000, 500, 0]] * 2
    assert columns("flow", 4, 1.0, 0.5) == [[1000, 500, 0, 0, 0], [1000, 1000, 1000, 500, 0]]
    assert columns("epsilon", 4, 1.0, 0.25) == [[999, 500, 0, -1, -1], [999, 999, 500, 0, -1]]
    assert columns("v", 2, 1.0, given_keyframe=True) == [[-1, -1, -1], [999, 0, -1]]
    assert len(columns("epsilon", 1000, 3.0)[0]) < 1001  # at a shift some of the chain's timesteps coincide
    assert shifted_times(3, 3.0) == [1.0, 0.75, 0.0]
    assert shifted_times(1, 1.0) == [1.0]


@pytest.mark.parametrize(("objective", "method", "zero"), CASES)
def test_the_last_estimate_is_the_result(objective, method, zero):
    seen = []
    given = {"keyframe": torch.zeros(2, *SHAPES["keyframe"])}
    _, result = sample(
        objective, method, zero, gaussian, 2, 10, given=given, observe=lambda step, clean: seen.append((step, clean))
    )
    assert [step for step, _ in seen] == list(range(1, 11))
    for part in SHAPES:
        if method != "heun":
            torch.testing.assert_close(seen[-1][1][part], result[part], rtol=1e-4, atol=1e-4)
    assert abs(seen[0][1]["motion"].mean() - MEAN) < 0.2  # at pure noise the best estimate is the mean


class BetweenLevels(DPMSolverMultistepScheduler):
    """Steps of equal log-SNR from noise level 0.95 to 0.05, away from the ends where it is infinite."""

    def set_timesteps(self, steps, device=None):
        super().set_timesteps(steps, device=device)
        self.sigmas = torch.sigmoid(torch.linspace(1, -1, steps + 1) * math.log(19))


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_converges_with_its_order(order):
    """Against the exact flow of a Gaussian, which keeps (x_t - E x_t) / std x_t."""
    own = make_dpm_solver("flow").config
    predict = partial(exact, "flow", False, expected_clean=gaussian)
    start = draw([torch.Generator().manual_seed(0)])
    spread = [(signal**2 * STD**2 + (1 - signal) ** 2) ** 0.5 for signal in (0.05, 0.95)]
    target = 0.95 * MEAN + spread[1] / spread[0] * (start["motion"] - 0.05 * MEAN)
    errors = []
    for steps in (20, 40, 80):
        scheduler = BetweenLevels.from_config(own, solver_order=order)
        result = walk_dpm_solver(scheduler, predict, start, steps, "flow")
        errors.append((result["motion"] - target).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.25, errors


@pytest.mark.parametrize(("objective", "zero"), [("epsilon", False), ("v", False), ("v", True)])
@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_our_chains_step_as_those_of_diffusers(objective, method, zero):
    """Ours on diffusers' timesteps against its own schedulers, with the same noise of every step."""
    shapes = {"motion": SHAPES["motion"]}
    kind = {"prediction_type": "v_prediction" if objective == "v" else "epsilon", "rescale_betas_zero_snr": zero}
    options = {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False, "timestep_spacing": "trailing", **kind}
    variance = "learned_range" if objective == "epsilon" else "fixed_small"
    theirs = DDIMScheduler(**options) if method == "ddim" else DDPMScheduler(**options, variance_type=variance)
    theirs.set_timesteps(20)
    own, other = ([torch.Generator().manual_seed(i) for i in range(3)] for _ in range(2))
    predict = partial(exact, objective, zero, expected_clean=gaussian)
    timesteps = [{"motion": int(timestep)} for timestep in (*theirs.timesteps, -1)]
    fresh = partial(draw, own, shapes) if method == "ddpm" else None
    ours = walk_chain(predict, draw(own, shapes), timesteps, objective, zero, fresh)["motion"]
    x = draw(other, shapes)["motion"]
    for timestep in theirs.timesteps:
        prediction = predict({"motion": x}, {"motion": int(timestep)})
        output = prediction.mean["motion"]
        if method == "ddpm" and objective == "epsilon":
            output = torch.cat([output, prediction.variance["motion"]], dim=1)
        x = theirs.step(output, timestep, x, generator=other).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


class ReadsOfValues(TorchDispatchMode):
    """Counts how often Python asks for the value of a tensor, for which a GPU must be waited."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_chain_asks_the_device_for_no_value():
    timesteps = [{"a": 9, "b": 9}, {"a": 9, "b": 4}, {"a": 4, "b": -1}, {"a": -1, "b": -1}]
    noise = {part: torch.randn(2, 1, 1, 2, 2) for part in "ab"}
    with ReadsOfValues() as reads:
        walk_chain(lambda x, now: Prediction(dict(x)), noise, timesteps, "epsilon")
    assert reads.count == 0
