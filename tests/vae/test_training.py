"""Losses against closed forms, phases, the adversary, and a loss that falls."""

from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest
import torch
from tiny_latte import check_golden
from tiny_vae import clip, tiny_vae

from pipelines.run.random_keys import Draws
from pipelines.run.task import LoopConfig
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from vae.adaptation import AdaptationConfig
from vae.discriminator import DiscriminatorConfig
from vae.gaussian import Gaussian
from vae.losses import pixel_l1, psnr, wavelet_l1
from vae.motion_module import MotionModule
from vae.motion_trainer import MotionLossConfig, MotionTask
from vae.objective import GanConfig, LossConfig, reconstruction_objective
from vae.perceptual import perceptual_frames, take_frames
from vae.trainer import VaeTask

NO_PERCEPTUAL = LossConfig(perceptual=0)
NO_GAN = GanConfig(weight=0)


def draws(name):
    return [torch.Generator().manual_seed(crc32(name.encode()) + i) for i in range(2)]


def batch(seed=0, **shape):
    return {"video": clip(seed=seed, **shape), "index": [0, 1], "path": ["a", "b"]}


def vae_task(variant="default", losses=NO_PERCEPTUAL, gan=NO_GAN, adaptation=None):
    adaptation = adaptation or AdaptationConfig(phase_two_step=-1)
    return VaeTask(tiny_vae(variant), losses, gan, adaptation, iter, lambda: [batch(1)], print)


def test_pixel_losses_of_a_known_offset():
    target = torch.zeros(2, 3, 5, 8, 8)
    assert pixel_l1(target + 0.5, target).item() == pytest.approx(0.25)
    assert psnr(target + 0.5, target).tolist() == pytest.approx([12.0412, 12.0412], abs=1e-3)
    assert psnr(target + 9, target + 9).min() > 100, "motion and residuals have no range to be cut to"
    low, high = wavelet_l1(target + 0.5, target, starts_with_image=True)
    num_image, num_group = 4 * 4, 2 * 4 * 4  # low coefficients per channel: one image, two pairs
    assert low.item() == pytest.approx((0.5 * num_image + 0.25 * 8**0.5 * num_group) / (num_image + num_group))
    assert high.item() == pytest.approx(0, abs=1e-6)


def test_kl_of_known_gaussians():
    shape = (2, 4, 1, 2, 2)
    standard = Gaussian(torch.zeros(shape), torch.zeros(shape))
    assert standard.kl().tolist() == [0, 0]
    other = Gaussian(torch.full(shape, 2.0), torch.full(shape, 1.0))
    per_value = 0.5 * (4 + torch.e - 1 - 1)
    assert other.kl().tolist() == pytest.approx([16 * per_value] * 2, rel=1e-5)


def test_gaussian_samples_have_its_moments():
    gaussian = Gaussian(torch.full((1, 1, 1, 200, 200), 3.0), torch.full((1, 1, 1, 200, 200), -2.0))
    sample = gaussian.sample(torch.Generator().manual_seed(0))
    assert sample.mean().item() == pytest.approx(3, abs=0.01)
    assert sample.std().item() == pytest.approx(torch.exp(torch.tensor(-1.0)).item(), rel=0.02)
    wild = Gaussian.from_moments(torch.zeros(1), torch.tensor([1e9]))
    assert wild.log_variance.item() == 20


def test_phases_freeze_and_unfreeze():
    task = vae_task(adaptation=AdaptationConfig(phase_two_step=5, motion_lr_scale=0.1))
    model = task.players["vae"]
    groups = task.parameter_groups("vae")
    assert [group["lr_scale"] for group in groups] == [1.0, 0.1]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for step, motion_trains in ((0, False), (4, False), (5, True), (99, True)):
        task.prepare_step(step)
        assert all(p.requires_grad == motion_trains for p in model.motion_module.parameters())
        assert all(p.requires_grad != motion_trains for p in model.encoders["keyframe"].parameters())
        assert all(p.requires_grad for p in model.decoder.parameters())


@pytest.mark.parametrize(("freeze", "train"), [(True, False), (False, True), (False, False)])
def test_the_cells_of_the_ablation(freeze, train):
    config = AdaptationConfig(phase_two_step=0, freeze_keyframe_encoder=freeze, train_motion_module=train)
    task = vae_task(adaptation=config)
    task.prepare_step(0)
    model = task.players["vae"]
    assert all(p.requires_grad != freeze for p in model.encoders["keyframe"].parameters())
    assert all(p.requires_grad == train for p in model.motion_module.parameters())


def train_plainly(task, player, item, steps, optimizer):
    """Losses of a few steps, always on the same batch."""
    losses = []
    for _ in range(steps):
        task.prepare_step(0)
        loss, _ = task.loss(player, item, draws, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("variant", ["plain", "default", "paper"])
def test_golden_loss_curve(variant):
    """With short steps of plain gradient descent: longer ones, and Adam's, let differences in rounding grow."""
    task = vae_task(variant)
    optimizer = torch.optim.SGD(task.players["vae"].parameters(), lr=1e-4)
    check_golden("vae_training", variant, torch.tensor(train_plainly(task, "vae", batch(), 10, optimizer)))


@pytest.mark.parametrize("variant", ["plain", "default", "paper"])
def test_a_few_steps_reduce_the_loss(variant):
    task = vae_task(variant)
    optimizer = torch.optim.Adam(task.players["vae"].parameters(), lr=3e-3)
    losses = train_plainly(task, "vae", batch(), 15, optimizer)
    assert losses[-1] < 0.7 * losses[0]
    scores = task.validate(task.players["vae"], 15)
    assert scores["psnr"] > 0
    if variant != "plain":
        video = task.validation()[0]["video"]
        pair = task.players["vae"](video, sample=False).components["motion"]
        assert scores["psnr_motion"] == pytest.approx(psnr(pair.decoded, pair.target).mean().item(), abs=1e-3)
    assert ("psnr_keyframe" in scores) == (variant != "plain")


def test_motion_learns_a_shift():
    """A texture that moves by one pixel per frame: the warp beats the copy after a few steps."""
    torch.manual_seed(0)
    texture = clip(1, 1, 48, 48)[:, :, 0]
    frames = [texture.roll(-step, dims=3)[..., 8:40, 8:40] for step in range(3)]
    video = torch.stack(frames, dim=2).expand(2, -1, -1, -1, -1)
    item = {"video": video, "index": [0, 1], "path": ["a", "b"]}
    task = MotionTask(MotionModule({"width": 16}), MotionLossConfig(frames_per_clip=2), iter, lambda: [item], print)
    optimizer = torch.optim.Adam(task.players["motion_module"].parameters(), lr=2e-3)
    check_golden(
        "vae_training", "motion module", torch.tensor(train_plainly(task, "motion_module", item, 60, optimizer)[:10])
    )
    scores = task.validate(task.players["motion_module"], 60)
    assert scores["psnr_warp"] > scores["psnr_copy"] + 2


def test_perceptual_frames_are_the_first_and_one_group():
    video = clip(2, 17, 16, 16)
    indices = perceptual_frames(video, draws("frames"))
    assert indices.shape == (2, 5)
    for row in indices.tolist():
        assert row[0] == 0
        assert (row[1] - 1) % 4 == 0
        assert row[1:] == list(range(row[1], row[1] + 4))
    images = take_frames(video, indices)
    assert torch.equal(images[7], video[1, :, indices[1, 2]])
    assert perceptual_frames(video[:, :, :1], draws("frames")).tolist() == [[0], [0]]


@pytest.mark.parametrize(("num_frames", "count"), [(1, 1), (5, 5), (9, 5)])
def test_perceptual_frames_of_short_clips(num_frames, count):
    """Clips of one group: all of it; of a single image: the image."""
    video = clip(2, num_frames, 16, 16)
    indices = perceptual_frames(video, draws("frames"))
    assert indices.shape == (2, count)
    assert indices.max() < num_frames
    assert take_frames(video, indices).shape == (2 * count, 3, 16, 16)


def test_perceptual_frames_reach_every_group():
    groups = {
        int(row[1])
        for seed in range(20)
        for row in perceptual_frames(clip(1, 17, 8, 8), [torch.Generator().manual_seed(seed)])
    }
    assert groups == {1, 5, 9, 13}


SWITCHES = {"l1": "l1", "l2": "l2", "wavelet_low": "keyframe_low", "wavelet_high": "keyframe_high", "kl": "kl"}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_term_is_logged_unweighted_and_can_be_switched_off(switch):
    losses = LossConfig(l1=2.0, l2=5.0, wavelet_low=0.3, wavelet_high=0.7, perceptual=0, kl=1e-3)
    coded, video = tiny_vae("default")(clip(), sample=False), clip()
    weights = {"l1": losses.l1, "l2": losses.l2, "kl": losses.kl}
    weights |= {f"{part}_low": losses.wavelet_low for part in coded.components}
    weights |= {f"{part}_high": losses.wavelet_high for part in coded.components}
    loss, terms = reconstruction_objective(coded, video, losses, None, draws)
    assert loss.item() == pytest.approx(sum(weight * terms[name].item() for name, weight in weights.items()), rel=1e-5)
    without, _ = reconstruction_objective(coded, video, replace(losses, **{switch: 0}), None, draws)
    names = [name for name in weights if name.endswith(SWITCHES[switch].removeprefix("keyframe"))]
    missing = sum(weights[name] * terms[name].item() for name in names)
    assert without.item() == pytest.approx(loss.item() - missing, rel=1e-4)
    assert {"psnr", "mean_abs_residual", "mean_abs_flow_pixels", "mean_level"} <= terms.keys()
    assert terms["l2"].item() == pytest.approx(((coded.reconstruction - video) / 2).square().mean().item(), rel=1e-5)


def test_the_divergence_of_a_part_has_a_factor_of_its_own():
    coded = tiny_vae("default")(clip(), sample=False)
    factors = {"motion": 0.0, "residual": 3.0}
    of_part = {part: posterior.kl().mean().item() for part, posterior in coded.posterior.items()}
    loss, factored = (
        reconstruction_objective(coded, clip(), LossConfig(perceptual=0, kl=1e-3, kl_factors=own), None, draws)[0]
        for own in ({}, factors)
    )
    added = 1e-3 * (2 * of_part["residual"] - of_part["motion"])
    assert (factored - loss).item() == pytest.approx(added, rel=1e-3)
    with pytest.raises(ValueError, match="kl_factors is"):
        LossConfig(kl_factors={"motion": -1.0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_clip_that_is_not_finite_stops_before_the_weights(bad):
    """Through the update of the training loop, with the discriminator on: named are the step and the bad clip alone."""
    gan = GanConfig(start_step=0, discriminator=DiscriminatorConfig(width=8, num_layers=2))
    task, loop = vae_task("plain", gan=gan), LoopConfig(global_batch_size=2, micro_batch_size=1)
    item = batch() | {"path": ["good.mp4", "bad.mp4"]}
    item["video"] = item["video"].clone()
    item["video"][1, 0, 3, 5, 5] = bad
    state = TrainingState(task, loop, Path(), torch.device("cpu"))
    before = {name: p.clone() for name, p in task.players["vae"].named_parameters()}
    task.prepare_step(7)
    with pytest.raises(ValueError, match=r"step 7 .*'vae'.*bad.mp4"):
        take_step(state, accumulate_gradient(state, "vae", item, Draws(0, "test", 7, [0, 1]), 7))
    assert all(torch.equal(before[name], p) for name, p in task.players["vae"].named_parameters())
    assert state.optimizers["vae"].state == {}


class SquaredDistance(torch.nn.Module):
    """In place of LPIPS: images (n, 3, h, w) -> (n, 1, 1, 1)."""

    def forward(self, decoded, target):
        return (decoded - target).square().mean(dim=(1, 2, 3), keepdim=True)


def test_the_perceptual_loss_compares_the_drawn_frames():
    losses, video = LossConfig(perceptual=3.0), clip()
    coded = tiny_vae("default")(video, sample=False)
    loss, terms = reconstruction_objective(coded, video, losses, SquaredDistance(), draws)
    frames = perceptual_frames(video, draws("perceptual frames"))
    difference = take_frames(coded.reconstruction, frames) - take_frames(video, frames)
    assert terms["perceptual"].item() == pytest.approx(difference.square().mean().item(), rel=1e-5)
    without, _ = reconstruction_objective(coded, video, losses, None, draws)
    assert loss.item() == pytest.approx(without.item() + 3 * terms["perceptual"].item(), rel=1e-5)


def test_a_perceptual_network_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="vae.losses.perceptual_network .*'squeeze'"):
        LossConfig(perceptual_network="squeeze")
