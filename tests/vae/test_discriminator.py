"""Discriminators, their losses and weights, and the adversary's turn in a step, in micro-batches and resumed."""

from dataclasses import replace

import pytest
import torch
from tiny_vae import clip, tiny_vae

from pipelines.run.folder import StageFolder
from pipelines.run.loop import train
from pipelines.run.random_keys import Draws
from pipelines.run.task import LoopConfig
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from vae.adaptation import AdaptationConfig
from vae.discriminator import DiscriminatorConfig, build_discriminator
from vae.losses import adaptive_weight, generator_loss, hinge_discriminator_loss, lecam_loss
from vae.objective import GanConfig, LossConfig, pixel_loss
from vae.trainer import VaeTask

SMALL = DiscriminatorConfig(width=8, num_layers=2)
GAN = GanConfig(start_step=2, discriminator=SMALL)
LOOP = LoopConfig(steps=6, global_batch_size=2, lr=1e-3, optimizer="adam", ema_decay=0.5, log_every=1)
kinds = pytest.mark.parametrize("kind", ["frames", "video"])


def of_kind(kind):
    return replace(SMALL, kind=kind)


def item(step=0):
    return {"video": clip(2, 5, seed=step), "index": [0, 1], "path": ["a.mp4", "b.mp4"]}


def batches(first_step):
    step = first_step
    while True:
        yield item(step)
        step += 1


def new_task(gan=GAN, variant="plain"):
    model = tiny_vae(variant)
    torch.manual_seed(0)
    adaptation = AdaptationConfig(phase_two_step=3)
    return VaeTask(model, LossConfig(perceptual=0), gan, adaptation, batches, lambda: [item(9)], lambda *_: None)


def play(task, steps, loop=LOOP, folder=None):
    """The loop's updates of some steps; returns what each logged."""
    state = TrainingState(task, loop, folder, torch.device("cpu"))
    state.set_learning_rate(loop.lr)
    logged = []
    for step in steps:
        draws, values = Draws(0, "test", step, [0, 1]), {}
        for player in task.prepare_step(step):
            values |= take_step(state, accumulate_gradient(state, player, item(step), draws, step)).read()
        logged.append(values)
    return logged


@kinds
@torch.no_grad()
def test_one_clip_cannot_change_the_logits_of_another(kind):
    torch.manual_seed(0)
    model, video = build_discriminator(of_kind(kind)).train(), clip(num_frames=5)
    logits = model(video)
    per_clip = len(logits) // 2
    torch.testing.assert_close(model(video[1:]), logits[per_clip:])
    assert model(video[:, :, :1]).shape[:2] == (2, 1), "a single image is judged, too"


@torch.no_grad()
def test_only_the_video_discriminator_sees_the_order_of_frames():
    torch.manual_seed(0)
    video = clip(num_frames=5)
    turned = video.flip(2)
    frames, whole = (build_discriminator(of_kind(kind)) for kind in ("frames", "video"))
    torch.testing.assert_close(frames(video).sum(), frames(turned).sum())
    assert not torch.allclose(whole(video).sum(), whole(turned).sum(), rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "count", "shape"),
    [
        (DiscriminatorConfig(), 2_765_633, (17, 1, 30, 30)),
        (DiscriminatorConfig(kind="video", num_layers=4), 11_744_641, (1, 1, 5, 16, 16)),
    ],
)
def test_full_sizes(config, count, shape):
    with torch.device("meta"):
        model = build_discriminator(config)
        assert sum(p.numel() for p in model.parameters()) == count
        assert model(torch.zeros(1, 3, 17, 256, 256)).shape == shape


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="vae.gan.discriminator.kind is 'clips'.*frames, video"):
        DiscriminatorConfig(kind="clips")
    with pytest.raises(ValueError, match="width 12 .*multiple of 8"):
        DiscriminatorConfig(width=12)
    with pytest.raises(ValueError, match="vae.gan.weighting is 'auto'.*constant, adaptive"):
        GanConfig(weighting="auto")


def test_adversarial_losses():
    ones = torch.ones(4)
    assert hinge_discriminator_loss(2 * ones, -2 * ones).item() == 0
    assert hinge_discriminator_loss(0 * ones, 0 * ones).item() == 1
    assert generator_loss(3 * ones).item() == -3
    assert lecam_loss(ones, -ones, torch.tensor(0.0), torch.tensor(0.0)).item() == 2
    assert lecam_loss(ones, -ones, torch.tensor(-1.0), torch.tensor(1.0)).item() == 0


def test_adaptive_weight_is_a_ratio_of_gradients():
    x = torch.randn(2, 3, 5, 8, 8, requires_grad=True)
    video = 1 * x
    weight = adaptive_weight(3 * video.mean(), (0.5 * video).mean(), video)
    assert weight.item() == pytest.approx(6, rel=1e-5)
    assert not weight.requires_grad
    assert x.grad is None
    assert adaptive_weight(video.mean(), 0 * video.mean(), video).item() == 1e4, "bounded where there is no gradient"
    assert adaptive_weight(0 * video.mean(), video.mean(), video).item() == 0
    assert adaptive_weight(0 * video.mean(), 0 * video.mean(), video).item() == 0


@pytest.mark.parametrize("variant", ["plain", "default", "paper"])
def test_an_adaptive_term_pulls_as_hard_as_its_weight_says(variant):
    task = new_task(replace(GAN, weighting="adaptive", weight=0.7), variant)
    coded = task.players["vae"](item()["video"], sample=False)
    terms = {"l1": (coded.reconstruction - item()["video"]).abs().mean() / 2}
    reference = pixel_loss(terms, task.losses)
    weighted, logged = task.adversary.autoencoder_loss(coded.reconstruction, reference, [0, 1])
    pull, pixel_pull = (
        torch.autograd.grad(loss, coded.reconstruction, retain_graph=True)[0].norm() for loss in (weighted, reference)
    )
    assert pull.item() == pytest.approx(0.7 * pixel_pull.item(), rel=1e-4)
    assert 0 < logged["adversarial_weight"].item() <= 0.7e4
    values = play(new_task(replace(GAN, weighting="adaptive"), variant), [2])[0]
    assert values["vae/adversarial_weight"] > 0


def test_the_discriminator_is_not_called_before_its_step():
    task = new_task()
    calls = []
    task.players["discriminator"].register_forward_hook(lambda *_: calls.append(1))
    before = {name: p.clone() for name, p in task.players["discriminator"].named_parameters()}
    logged = play(task, [0, 1])
    assert calls == []
    assert all(torch.equal(before[name], p) for name, p in task.players["discriminator"].named_parameters())
    assert not any("adversarial" in name or "discriminator" in name for values in logged for name in values)
    (values,) = play(task, [2])
    assert len(calls) == 3, "reconstructions for the autoencoder, then clips and reconstructions"
    assert {"vae/adversarial", "discriminator/loss", "discriminator/lecam", "discriminator/real_logits"} <= set(values)
    assert task.adversary.fakes == {}


def test_each_player_leaves_the_other_alone():
    task = new_task()
    loss, terms = task.loss("vae", item(), Draws(0, "test", 2, [0, 1]), 2)
    loss.backward()
    assert all(p.grad is None and p.requires_grad for p in task.players["discriminator"].parameters())
    task.players["vae"].zero_grad()
    loss, _ = task.loss("discriminator", item(), Draws(0, "test", 2, [0, 1]), 2)
    loss.backward()
    assert all(p.grad is not None for p in task.players["discriminator"].parameters())
    assert all(p.grad is None for p in task.players["vae"].parameters())


@kinds
@pytest.mark.parametrize("weighting", ["constant", "adaptive"])
def test_bf16(kind, weighting):
    task = new_task(replace(GAN, weighting=weighting, discriminator=of_kind(kind)))
    for values in play(task, [2, 3], replace(LOOP, precision="bf16")):
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())
    assert {average.dtype for average in task.extra_state().values()} == {torch.float32}


def test_lecam_sees_the_whole_step_whatever_the_micro_batches():
    together, apart = new_task(), new_task()
    play(together, [2, 3])
    play(apart, [2, 3], replace(LOOP, micro_batch_size=1))
    for name, average in together.extra_state().items():
        assert average.item() != 0
        torch.testing.assert_close(apart.extra_state()[name], average, rtol=1e-4, atol=1e-9)


@kinds
def test_the_discriminator_learns_to_tell_reconstructions(kind):
    torch.manual_seed(0)
    task = new_task(GanConfig(start_step=0, discriminator=of_kind(kind)))
    optimizer = torch.optim.Adam(task.players["discriminator"].parameters(), lr=1e-3)
    fake = (clip(2, 5, seed=1) * 0.3).detach()
    losses = []
    for _ in range(25):
        task.adversary.fakes[0, 1] = fake
        loss, _ = task.adversary.discriminator_loss(clip(2, 5, seed=0), [0, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    """Through the real loop, with the adversary before and after the break: both players and LeCam's averages."""
    ended = {}
    for name, stops in (("unbroken", [6]), ("broken", [3, 4, 6])):
        for steps in stops:
            task = new_task(replace(GAN, weighting="adaptive"))
            with StageFolder(str(tmp_path), name, "train_vae").open({}) as folder:
                train(task, replace(LOOP, steps=steps), folder, seed=0, device="cpu")
        ended[name] = {
            f"{player}.{key}": value for player, m in task.players.items() for key, value in m.state_dict().items()
        }
        ended[name] |= task.extra_state()
    assert ended["unbroken"].keys() == ended["broken"].keys()
    assert [key for key, value in ended["unbroken"].items() if not torch.equal(value, ended["broken"][key])] == []
    assert all(ended["broken"][f"lecam_{side}"] != 0 for side in ("real", "fake"))
