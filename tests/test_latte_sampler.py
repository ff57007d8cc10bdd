"""Sampling: known answers for Gaussian data, guidance, seeds, and independence of the batch size."""

import pytest
import torch
from tiny_latte import DECOUPLED, PLAIN, random_latents, tiny_latte

from latte.diffusion import Prediction, predict
from latte.guidance import guided_prediction
from latte.sampler import SamplerConfig, generate, sample_batch, shifted_times, solve_flow, unwhiten, walk_chain

CPU = torch.device("cpu")
MEAN, STD = 3.0, 0.5  # Gaussian data, for which the exact velocity and the exact noise are known
LEVELS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)


def exact_velocity(x: dict, time: float) -> dict:
    """E [noise - x_0 | x_t] for x_t = (1 - t) x_0 + t noise."""
    slope = (time - (1 - time) * STD**2) / ((1 - time) ** 2 * STD**2 + time**2)
    return {part: slope * (value - (1 - time) * MEAN) - MEAN for part, value in x.items()}


def exact_noise(x: dict, timestep: float) -> Prediction:
    """E [noise | x_t] for x_t = sqrt(a) x_0 + sqrt(1 - a) noise, and the smaller variance of the two bounds."""
    a = LEVELS[int(timestep)].item()
    mean = {part: (1 - a) ** 0.5 * (v - a**0.5 * MEAN) / (a * STD**2 + 1 - a) for part, v in x.items()}
    return Prediction(mean, {part: torch.full_like(v, -1.0) for part, v in x.items()})


def test_flow_reaches_the_data_distribution():
    """The exact flow of Gaussian data maps each noise to mean + std noise; Heun's error falls with its square step."""
    noise = {"video": torch.randn(4, 2, 3, 4, 4, dtype=torch.float64)}
    target = MEAN + STD * noise["video"]
    errors = {}
    for heun, steps in ((False, 100), (True, 50), (True, 100)):
        result = solve_flow(exact_velocity, noise, shifted_times(steps + 1, 1.0), heun)["video"]
        errors[heun, steps] = (result - target).abs().max().item()
    assert errors[False, 100] < 0.05
    assert errors[True, 100] < 2e-3
    assert 3 < errors[True, 50] / errors[True, 100] < 5


@pytest.mark.parametrize("steps", [50, 77])
def test_chain_reaches_the_data_distribution(steps):
    generator = torch.Generator().manual_seed(0)

    def draw():
        return {"video": torch.randn(64, 4, 2, 8, 8, generator=generator)}

    timesteps = sorted({round(999 * time) for time in shifted_times(steps, 1.0)}, reverse=True)
    assert len(timesteps) == steps and (timesteps[0], timesteps[-1]) == (999, 0)
    for fresh in (draw, None):
        noise = draw()
        result = walk_chain(exact_noise, noise, timesteps, fresh)["video"]
        assert abs(result.mean() - MEAN) < 0.03
        assert abs(result.std() - STD) < 0.06
    assert (result - MEAN - STD * noise["video"]).abs().max() < 0.2  # DDIM: each noise goes to its own place


def test_shifted_times():
    assert shifted_times(3, 1.0) == [1.0, 0.5, 0.0]
    assert shifted_times(3, 3.0) == [1.0, 0.75, 0.0]
    assert shifted_times(1, 1.0) == [1.0]


@pytest.mark.parametrize("objective", ["flow", "epsilon"])
def test_guidance_on_every_channel_inside_the_interval(objective):
    model = tiny_latte(awake=True, objective=objective)
    x, labels = random_latents(DECOUPLED, 2), torch.tensor([0, 2])

    def at(timestep, labels):
        return predict(model, x, torch.full((2,), timestep), labels)

    with torch.no_grad():
        conditional, unconditional = at(600.0, labels), at(600.0, torch.tensor([3, 3]))
        guided = guided_prediction(model, x, 600.0, labels, 2.5, (0.2, 0.7))
        for part in DECOUPLED:
            expected = unconditional.mean[part] + 2.5 * (conditional.mean[part] - unconditional.mean[part])
            torch.testing.assert_close(guided.mean[part], expected, rtol=1e-4, atol=1e-5)
            if objective == "epsilon":  # the variance is not guided
                torch.testing.assert_close(guided.variance[part], conditional.variance[part], rtol=1e-4, atol=1e-5)
        for timestep in (100.0, 800.0):
            outside = guided_prediction(model, x, timestep, labels, 2.5, (0.2, 0.7))
            assert all(torch.equal(outside.mean[p], at(timestep, labels).mean[p]) for p in DECOUPLED)


def test_no_unconditional_pass_outside_the_interval():
    model = tiny_latte(awake=True)
    rows = []
    model.register_forward_pre_hook(lambda _, args: rows.append(len(args[1])))
    config = SamplerConfig(steps=4, guidance_scale=3.0, guidance_low=0.4, guidance_high=0.8)
    sample_batch(model, [0, 1], [1, 2], config, CPU)
    assert rows == [2, 4, 4, 2]  # at times 1, 0.75, 0.5, 0.25


@pytest.mark.parametrize(
    ("objective", "method"), [("flow", "euler"), ("flow", "heun"), ("epsilon", "ddpm"), ("epsilon", "ddim")]
)
def test_samples_do_not_depend_on_the_batch_size(objective, method):
    model = tiny_latte(awake=True, objective=objective, layout="channel")
    config = SamplerConfig(steps=5, method=method, guidance_scale=2.0)
    labels, seeds = [0, 1, 2, -1, 0], [11, 12, 13, 14, 15]
    one, three = (list(generate(model, labels, seeds, config, size, CPU)) for size in (1, 3))
    assert [(s["index"], s["label"], s["seed"]) for s in three] == [(i, [0, 1, 2, 3, 0][i], 11 + i) for i in range(5)]
    for a, b in zip(one, three, strict=True):
        assert {part: tuple(x.shape) for part, x in a["latents"].items()} == DECOUPLED
        for part in DECOUPLED:
            torch.testing.assert_close(a["latents"][part], b["latents"][part], rtol=1e-3, atol=1e-3)
    assert (three[0]["latents"]["motion"] - three[4]["latents"]["motion"]).abs().max() > 0.1  # another seed


def test_unconditional_models_and_short_clips():
    shapes = {"keyframe": (6, 1, 4, 4), "motion": (2, 0, 4, 4)}
    model = tiny_latte(shapes, classes=(), awake=True)
    samples = list(generate(model, [-1, -1], [1, 2], SamplerConfig(steps=2, guidance_scale=1.0), 2, CPU))
    assert {part: tuple(x.shape) for part, x in samples[1]["latents"].items()} == shapes


def test_unwhiten_inverts_the_whitening():
    model = tiny_latte(PLAIN)  # mean 0.5, std 2
    latents = random_latents(PLAIN, 2)
    torch.testing.assert_close(unwhiten(model, latents)["video"], latents["video"] * 2 + 0.5)


@pytest.mark.parametrize(
    ("model_options", "options", "labels", "message"),
    [
        ({}, {"method": "ddpm"}, [0], "sample.method"),
        ({"objective": "epsilon"}, {"method": "heun"}, [0], "sample.method"),
        ({}, {"steps": 0}, [0], "sample.steps"),
        ({}, {"time_shift": 0.0}, [0], "sample.time_shift"),
        ({"classes": ()}, {"guidance_scale": 2.0}, [-1], "no classes"),
        ({"label_dropout": 0.0}, {"guidance_scale": 2.0}, [0], "label_dropout=0"),
        ({}, {}, [3], "no class has number"),
        ({}, {}, [0, 1], "one seed per label"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model_options, options, labels, message):
    with pytest.raises(ValueError, match=message):
        next(generate(tiny_latte(**model_options), labels, [1], SamplerConfig(**options), 1, CPU))
