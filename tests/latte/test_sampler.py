"""Sampling from a model: guidance, seeds, independence of the batch size, given first frames, interpolation."""

import pytest
import torch
from tiny_latte import DECOUPLED, PLAIN, random_latents, tiny_latte

from latte.diffusion import predict
from latte.guidance import Guidance, guided_prediction
from latte.sampler import METHODS, SamplerConfig, generate, initial_noise, interpolate_noise, sample_batch
from latte.whitening import unwhiten, whiten

CPU = torch.device("cpu")
CASES = [(objective, method) for objective, methods in METHODS.items() for method in methods]


def calm(shapes=DECOUPLED, **options):
    """A model whose output is small, so that no sampler blows it up."""
    model = tiny_latte(shapes, awake=True, **options)
    for head in model.final_layer.heads.values():
        torch.nn.init.normal_(head.weight, std=0.02)
        torch.nn.init.normal_(head.bias, std=0.02)
    return model


@pytest.mark.parametrize("objective", ["flow", "epsilon"])
def test_guidance_on_every_channel_inside_the_interval(objective):
    model = tiny_latte(awake=True, objective=objective)
    x, labels = random_latents(DECOUPLED, 2), torch.tensor([0, 2])

    def at(timestep, labels):
        return predict(model, x, torch.full((2,), timestep), labels)

    with torch.no_grad():
        conditional, unconditional = at(600.0, labels), at(600.0, torch.tensor([3, 3]))
        guided = guided_prediction(model, x, dict.fromkeys(x, 600.0), labels, Guidance(2.5, 0.2, 0.7))
        for part in DECOUPLED:
            expected = unconditional.mean[part] + 2.5 * (conditional.mean[part] - unconditional.mean[part])
            torch.testing.assert_close(guided.mean[part], expected, rtol=1e-4, atol=1e-5)
            if objective == "epsilon":  # the variance is not guided
                torch.testing.assert_close(guided.variance[part], conditional.variance[part], rtol=1e-4, atol=1e-5)
        for timestep in (100.0, 800.0):
            outside = guided_prediction(model, x, dict.fromkeys(x, timestep), labels, Guidance(2.5, 0.2, 0.7))
            assert all(torch.equal(outside.mean[p], at(timestep, labels).mean[p]) for p in DECOUPLED)


def test_no_unconditional_pass_outside_the_interval():
    model = tiny_latte(awake=True)
    rows = []
    model.register_forward_pre_hook(lambda _, args: rows.append(len(args[1])))
    config = SamplerConfig(steps=4, guidance_scale=3.0, guidance_low=0.4, guidance_high=0.8)
    sample_batch(model, [0, 1], [1, 2], config, CPU)
    assert rows == [2, 4, 4, 2]  # at times 1, 0.75, 0.5, 0.25


@pytest.mark.parametrize("objective", ["flow", "epsilon"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_internal_guidance_changes_the_conditional_prediction_first(objective, scale):
    """early + w (final - early), and the class counts after that; below internal_low there is none."""
    model = tiny_latte(awake=True, objective=objective, early_head=1, depth=2)
    x, labels, times = random_latents(DECOUPLED, 2), torch.tensor([0, 2]), torch.full((2,), 600.0)
    guidance = Guidance(scale, internal_scale=1.7, internal_low=0.5)
    with torch.no_grad():
        found = predict(model, x, times, labels, early=True)
        other = predict(model, x, times, torch.tensor([3, 3]))
        guided = guided_prediction(model, x, dict.fromkeys(x, 600.0), labels, guidance)
        below = guided_prediction(
            model, x, dict.fromkeys(x, 400.0), labels, Guidance(1.0, internal_scale=1.7, internal_low=0.5)
        )
        plain = predict(model, x, torch.full((2,), 400.0), labels)
    for part in DECOUPLED:
        sharp = found.early[part] + 1.7 * (found.mean[part] - found.early[part])
        expected = other.mean[part] + scale * (sharp - other.mean[part]) if scale != 1 else sharp
        torch.testing.assert_close(guided.mean[part], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(below.mean[part], plain.mean[part])
        if objective == "epsilon":
            torch.testing.assert_close(guided.variance[part], found.variance[part], rtol=1e-4, atol=1e-5)


def test_internal_guidance_needs_an_early_head():
    with pytest.raises(ValueError, match="sample.internal_scale is 1.5, but the model has no early head"):
        SamplerConfig(internal_scale=1.5).method_for(tiny_latte())
    with pytest.raises(ValueError, match="latte.early_head is 2, but there are 2 blocks"):
        tiny_latte(early_head=2, depth=2)


@pytest.mark.parametrize("weak_model", [True, False])
@pytest.mark.parametrize("layout", ["keyframe_first", "channel"])
def test_guidance_on_the_first_channels_only(layout, weak_model):
    """Of every stream: in `channel` all parts are one stream, which begins with the keyframe's 6 channels."""
    model = tiny_latte(awake=True, layout=layout)
    weak = tiny_latte(awake=True, layout=layout, depth=1) if weak_model else None
    x, labels, channels = random_latents(DECOUPLED, 2), torch.tensor([0, 2]), 7
    times = torch.full((2,), 600.0)
    with torch.no_grad():
        strong = predict(model, x, times, labels).mean
        other = (predict(weak, x, times, labels) if weak else predict(model, x, times, torch.tensor([3, 3]))).mean
        guidance = Guidance(3.0, channels=channels, weak_model=weak)
        guided = guided_prediction(model, x, dict.fromkeys(x, 600.0), labels, guidance).mean
    number = {"keyframe": 6, "motion": 1 if layout == "channel" else 2, "residual": 0 if layout == "channel" else 4}
    for part, n in number.items():
        expected = strong[part].clone()
        expected[:, :n] = other[part][:, :n] + 3 * (strong[part][:, :n] - other[part][:, :n])
        torch.testing.assert_close(guided[part], expected, rtol=1e-4, atol=1e-5)


def test_autoguidance_needs_no_dropped_labels_and_a_model_of_the_same_kind():
    model, weak = calm(label_dropout=0.0), calm(label_dropout=0.0, depth=1)
    config = SamplerConfig(steps=3, guidance_scale=2.0)
    guided, again, plain = (
        next(generate(model, [1], [5], settings, 1, CPU, weak_model=other))["latents"]["motion"]
        for settings, other in ((config, weak), (config, model), (SamplerConfig(steps=3, guidance_scale=1.0), None))
    )
    assert (guided - plain).abs().max() > 1e-3
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-5)  # away from itself is nowhere
    for other in (calm(objective="v"), calm(classes=("left", "right")), calm({**DECOUPLED, "motion": (3, 4, 4, 4)})):
        with pytest.raises(ValueError, match="guiding model has other"):
            next(generate(model, [1], [5], config, 1, CPU, weak_model=other))


@pytest.mark.parametrize(("objective", "method"), CASES)
def test_samples_do_not_depend_on_the_batch_size(objective, method):
    model = calm(objective=objective, layout="channel")
    config = SamplerConfig(steps=5, method=method, guidance_scale=2.0)
    labels, seeds = [0, 1, 2, -1, 0, 1, 2, 0], list(range(11, 19))
    one, three, eight = (list(generate(model, labels, seeds, config, size, CPU)) for size in (1, 3, 8))
    assert [(s["index"], s["seed"]) for s in three] == [(i, 11 + i) for i in range(8)]
    assert [s["label"] for s in three] == [0, 1, 2, 3, 0, 1, 2, 0]
    for others in (three, eight):
        for a, b in zip(one, others, strict=True):
            assert {part: tuple(x.shape) for part, x in a["latents"].items()} == DECOUPLED
            for part in DECOUPLED:
                torch.testing.assert_close(a["latents"][part], b["latents"][part], rtol=1e-4, atol=1e-4)
    assert (three[0]["latents"]["motion"] - three[4]["latents"]["motion"]).abs().max() > 0.1  # another seed


@pytest.mark.parametrize(
    ("layout", "objective", "method"),
    [
        *(("keyframe_first", *names) for names in CASES),
        ("tokens", "flow", "heun"),
        ("tokens", "epsilon", "ddpm"),
    ],
)
def test_a_given_first_frame(layout, objective, method):
    """It stays what it is, it is shown to the model as data, and the rest depends on it but not on the batch."""
    model = calm(objective=objective, layout=layout, clean_keyframe_share=0.5)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append((args[0]["keyframe"], args[1])))
    config = SamplerConfig(steps=3, method=method, guidance_scale=2.0)
    frames = {"keyframe": random_latents(DECOUPLED, 3, seed=9)["keyframe"]}
    whole = list(generate(model, [0, 1, 2], [1, 2, 3], config, 3, CPU, first_frame=frames))
    for clean, times in seen:
        torch.testing.assert_close(clean[:3], whiten(model, frames)["keyframe"])
        assert not (times["keyframe"] if isinstance(times, dict) else times).any()
    assert seen[0][1][model.layout.stream_of("motion")].min() >= 999
    one = list(generate(model, [0, 1, 2], [1, 2, 3], config, 1, CPU, first_frame=frames))
    shared = {"keyframe": frames["keyframe"][:1]}
    same = list(generate(model, [0, 1, 2], [1, 2, 3], config, 2, CPU, first_frame=shared))
    for row in range(3):
        assert torch.equal(whole[row]["latents"]["keyframe"], frames["keyframe"][row])
        assert torch.equal(same[row]["latents"]["keyframe"], frames["keyframe"][0])
        torch.testing.assert_close(one[row]["latents"]["motion"], whole[row]["latents"]["motion"], rtol=1e-4, atol=1e-4)
    assert (same[2]["latents"]["motion"] - whole[2]["latents"]["motion"]).abs().max() > 1e-4


def test_first_frames_that_do_not_fit_are_refused():
    frames = {"keyframe": torch.zeros(1, 6, 1, 4, 4)}
    config = SamplerConfig(steps=2)
    for model, given, message in (
        (calm(), frames, "clean_keyframe_share above 0"),
        (calm(clean_keyframe_share=0.5), {"keyframe": torch.zeros(1, 6, 1, 8, 8)}, "have shape"),
        (calm(clean_keyframe_share=0.5), {"keyframe": torch.zeros(2, 6, 1, 4, 4)}, "have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            next(generate(model, [0], [1], config, 1, CPU, first_frame=given))


@pytest.mark.parametrize(("objective", "method"), [("flow", "euler"), ("epsilon", "ddpm")])
def test_the_keyframe_ahead(objective, method):
    model = calm(objective=objective, independent_times_share=0.5)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    config = SamplerConfig(steps=4, method=method, guidance_scale=1.0, keyframe_lead=0.5)
    sample_batch(model, [0], [1], config, CPU)
    rest = [float(times["motion_residual"]) if isinstance(times, dict) else float(times) for times in seen]
    first = [float(times["keyframe"]) if isinstance(times, dict) else float(times) for times in seen]
    noise = 1000 if objective == "flow" else 999
    assert rest[:3] == [noise] * 3 and rest[3] < noise
    assert first[0] == noise and first[2:] == [0, 0] and 0 <= first[1] < noise


def test_the_callback_sees_every_step():
    model, seen = calm(), []
    config = SamplerConfig(steps=3, guidance_scale=2.0)
    samples = list(generate(model, [0, 1, 2], [1, 2, 3], config, 2, CPU, callback=lambda *step: seen.append(step)))
    assert [(step, number) for step, number, _ in seen] == [(1, 3), (2, 3), (3, 3)] * 2
    assert [len(clean["motion"]) for _, _, clean in seen] == [2, 2, 2, 1, 1, 1]
    for row in range(2):  # the last estimate of Euler's method is the result, in the autoencoder's own scale
        torch.testing.assert_close(seen[2][2]["residual"][row], samples[row]["latents"]["residual"])


def test_noise_from_outside_and_on_the_arc_between_two_seeds():
    model, config = calm(), SamplerConfig(steps=2)
    arc = interpolate_noise(model, 4, 9, 5)
    for part, x in arc.items():
        a, b = initial_noise(model, 4)[part], initial_noise(model, 9)[part]
        torch.testing.assert_close(x[:1], a)
        torch.testing.assert_close(x[4:], b)
        angle = torch.acos((a * b).sum() / a.norm() / b.norm())
        torch.testing.assert_close(x[2:3], (a + b) / 2 / torch.cos(angle / 2), rtol=1e-4, atol=1e-5)
        turned = torch.acos(torch.cosine_similarity((x[1] / a.norm()).flatten(), (a[0] / a.norm()).flatten(), dim=0))
        assert abs(turned / angle - 0.25) < 0.05  # a quarter of the way, up to the difference of their lengths
    still = interpolate_noise(model, 4, 4, 3)
    torch.testing.assert_close(still["motion"], initial_noise(model, 4)["motion"].expand(3, -1, -1, -1, -1))
    given = list(generate(model, [1] * 5, [0] * 5, config, 2, CPU, noise=arc))
    for row, seed in ((0, 4), (4, 9)):
        own = next(generate(model, [1], [seed], config, 1, CPU))
        torch.testing.assert_close(given[row]["latents"]["motion"], own["latents"]["motion"], rtol=1e-4, atol=1e-4)


def test_unconditional_models_and_short_clips():
    shapes = {"keyframe": (6, 1, 4, 4), "motion": (2, 0, 4, 4)}
    model = tiny_latte(shapes, classes=(), awake=True)
    samples = list(generate(model, [-1, -1], [1, 2], SamplerConfig(steps=2, guidance_scale=1.0), 2, CPU))
    assert {part: tuple(x.shape) for part, x in samples[1]["latents"].items()} == shapes


def test_unwhiten_inverts_the_whitening():
    model = tiny_latte(PLAIN)  # mean 0.5, std 2
    latents = random_latents(PLAIN, 2)
    torch.testing.assert_close(unwhiten(model, latents)["video"], latents["video"] * 2 + 0.5)
    torch.testing.assert_close(whiten(model, unwhiten(model, latents)), latents)


@pytest.mark.parametrize(
    ("model_options", "options", "labels", "message"),
    [
        ({}, {"method": "ddpm"}, [0], "sample.method"),
        ({"objective": "epsilon"}, {"method": "heun"}, [0], "sample.method"),
        ({}, {"steps": 0}, [0], "sample.steps"),
        ({}, {"time_shift": 0.0}, [0], "sample.time_shift"),
        ({"objective": "v"}, {"time_shift": 2.0, "method": "DPMSolverMultistepScheduler"}, [0], "sample.time_shift"),
        ({}, {"cfg_channels": -1}, [0], "sample.cfg_channels"),
        ({}, {"keyframe_lead": 0.6}, [0], "sample.keyframe_lead"),
        ({"clean_keyframe_share": 0.5}, {"keyframe_lead": 0.2}, [0], "independent_times_share above 0"),
        ({"objective": "v"}, {"method": "DDIMScheduler"}, [0], "sample.method"),
        ({"classes": ()}, {"guidance_scale": 2.0}, [-1], "no classes"),
        ({"label_dropout": 0.0}, {"guidance_scale": 2.0}, [0], "label_dropout=0"),
        ({}, {}, [3], "no class has number"),
        ({}, {}, [0, 1], "one seed per label"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model_options, options, labels, message):
    with pytest.raises(ValueError, match=message):
        next(generate(tiny_latte(**model_options), labels, [1], SamplerConfig(**options), 1, CPU))
