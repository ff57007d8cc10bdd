"""Noise levels of the streams in training: clean keyframes, independent times, images among the clips."""

import pytest
import torch
from tiny_latte import DECOUPLED, PLAIN, keyed_draws, random_latents, tiny_latte

from latte.diffusion import draw_noise, loss_at, training_loss
from latte.times import draw_stream_times, draw_times

CPU = torch.device("cpu")
EVERYTHING = {"clean_keyframe_share": 0.25, "independent_times_share": 0.25, "image_share": 0.25}
objectives = pytest.mark.parametrize("objective", ["flow", "epsilon", "v"])


def kinds(drawn):
    """0 = one time for all, 1 = clean keyframe, 2 = independent, 3 = image."""
    keyframe, rest = drawn.times["keyframe"], drawn.times["motion_residual"]
    return torch.where(drawn.is_image, 3, torch.where(keyframe < 0, 1, torch.where(keyframe != rest, 2, 0)))


def test_the_shares_are_those_asked_for():
    model = tiny_latte(clean_keyframe_share=0.1, independent_times_share=0.2, image_share=0.3)
    draws = keyed_draws(list(range(2000)))
    drawn = draw_stream_times(model, draws)
    shares = kinds(drawn).bincount(minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.1, 0.2, 0.3]), rtol=0.0, atol=0.04)
    assert torch.equal(drawn.counted["keyframe"] == 0, kinds(drawn) == 1)
    # the streams that are not clean have the times that they would have without any of this
    joint = kinds(drawn) != 2
    assert torch.equal(drawn.times["motion_residual"][joint], draw_times(model, draws("time"))[joint])
    independent = torch.stack([drawn.times[name][~joint] for name in ("keyframe", "motion_residual")])
    assert abs(torch.corrcoef(independent)[0, 1]) < 0.1


def test_without_shares_there_is_one_time_for_all_streams():
    assert draw_stream_times(tiny_latte(), keyed_draws([1, 2])).times.shape == (2,)
    images = draw_stream_times(tiny_latte(image_share=0.5), keyed_draws(list(range(40))))
    assert images.times.shape == (40,) and 5 < images.is_image.sum() < 35


@objectives
def test_a_clean_keyframe_is_data_and_gets_no_loss(objective):
    model = tiny_latte(awake=True, objective=objective, clean_keyframe_share=1.0)
    seen, outputs = [], []

    def keep(_, arguments, output):
        seen.append(arguments)
        outputs.append(output["keyframe"])
        outputs[0].retain_grad()

    model.register_forward_hook(keep)
    latents = random_latents(DECOUPLED, 3)
    loss, terms = training_loss(model, latents, torch.tensor([0, 1, 2]), keyed_draws([1, 2, 3]))
    streams, timestep, *_ = seen[0]
    assert torch.equal(streams["keyframe"], latents["keyframe"])
    assert not timestep["keyframe"].any() and timestep["motion_residual"].all()
    loss.backward()
    assert not outputs[0].grad.any()
    assert torch.isfinite(loss) and all(parameter.grad is not None for parameter in model.parameters())


@objectives
def test_the_loss_is_the_sum_over_the_kinds_of_samples(objective):
    """Each sample's loss, from `loss_at` with its own times; elements that do not count weigh nothing."""
    model = tiny_latte(awake=True, objective=objective, label_dropout=0.0, **EVERYTHING)
    seeds = list(range(12))
    latents, labels = random_latents(DECOUPLED, 12), torch.arange(12) % 3
    loss, terms = training_loss(model, latents, labels, keyed_draws(seeds))
    total, keyframe, motion, found = 0.0, 0.0, 0.0, set()
    for i in range(12):
        draws = keyed_draws(seeds[i : i + 1])
        drawn = draw_stream_times(model, draws)
        kind = int(kinds(drawn))
        found.add(kind)
        noise = draw_noise(model, draws("noise"), CPU)
        own = {part: x[i : i + 1] for part, x in latents.items()}
        counted = {"keyframe": torch.tensor([float(kind != 1)])}
        one, own_terms = loss_at(model, own, labels[i : i + 1], drawn.times, noise, counted, as_image=kind == 3)
        total += one.item() / 12
        keyframe += own_terms["loss_keyframe"].item() / 12 / 0.75
        motion += own_terms.get("loss_motion", torch.zeros(())).item() / 12 / 0.75
    assert found == {0, 1, 2, 3}
    assert loss.item() == pytest.approx(total, rel=1e-4)
    assert terms["loss_keyframe"].item() == pytest.approx(keyframe, rel=1e-4)
    assert terms["loss_motion"].item() == pytest.approx(motion, rel=1e-4)


@objectives
@pytest.mark.parametrize("layout", ["keyframe_first", "tokens"])
def test_micro_batches_add_up_with_every_kind_of_sample(objective, layout):
    model = tiny_latte(awake=True, objective=objective, layout=layout, **EVERYTHING)
    latents, labels = random_latents(DECOUPLED, 8), torch.arange(8) % 3
    whole, whole_terms = training_loss(model, latents, labels, keyed_draws(list(range(8))))
    parts = [
        training_loss(model, {k: v[s : s + 2] for k, v in latents.items()}, labels[s : s + 2], keyed_draws([s, s + 1]))
        for s in (0, 2, 4, 6)
    ]
    torch.testing.assert_close(whole, sum(loss for loss, _ in parts) / 4)
    for name, value in whole_terms.items():
        torch.testing.assert_close(value, sum(terms[name] for _, terms in parts) / 4)


@pytest.mark.parametrize(
    ("shapes", "layout"), [(DECOUPLED, "channel"), (DECOUPLED, "keyframe_first"), (PLAIN, "tokens")]
)
def test_images_alone_train_every_weight_that_images_have(shapes, layout):
    """A batch without any clip still gives every weight a gradient (several processes must hold the same ones)."""
    model = tiny_latte(shapes, awake=True, layout=layout, image_share=1.0)
    sizes = []
    model.register_forward_pre_hook(lambda _, args: sizes.append({name: tuple(x.shape) for name, x in args[0].items()}))
    loss, terms = training_loss(model, random_latents(shapes, 3), torch.tensor([0, 1, 2]), keyed_draws([1, 2, 3]))
    loss.backward()
    assert all(shape[0] == 3 and shape[2] == 1 for shape in sizes[1].values())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.blocks[0].attention.qkv.weight.grad.any()
    assert loss > 0 and all(torch.isfinite(term) for name, term in terms.items())
