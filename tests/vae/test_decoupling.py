"""Decoupling and recoupling invert each other; the motion module has the published size and starts near identity."""

import pytest
import torch
from tiny_vae import clip

from pipelines.inputs.models import take_weights
from vae.decoupling import decouple, denormalise_motion, normalise_motion, predict, recouple, split_keyframe
from vae.motion_module import INITIAL_LEVEL, MotionModule


@pytest.fixture
def module():
    torch.manual_seed(0)
    model = MotionModule({"width": 8})
    with torch.no_grad():
        model.motion_decoder[-1].weight.mul_(50)
    return model


@pytest.mark.parametrize("with_motion", [True, False])
@torch.no_grad()
def test_decouple_then_recouple_is_exact(module, with_motion):
    """Open and closed loop: whatever keyframe and motion the prediction is made from."""
    keyframe, frames = split_keyframe(clip(num_frames=9, height=24, width=40))
    motion = module(frames, keyframe) if with_motion else None
    for reference in (keyframe, keyframe + 0.1 * torch.randn_like(keyframe)):
        prediction = predict(reference, motion, num_frames=8)
        torch.testing.assert_close(recouple(prediction, decouple(frames, prediction)), frames, atol=1e-6, rtol=0)
    still = predict(keyframe, None, num_frames=8)
    assert torch.equal(still, keyframe.unsqueeze(2).expand_as(still))
    assert torch.equal(prediction, predict(reference, None, 8)) != with_motion


@torch.no_grad()
def test_keyframe_and_the_other_frames():
    video = clip(num_frames=5)
    keyframe, frames = split_keyframe(video)
    assert torch.equal(torch.cat([keyframe.unsqueeze(2), frames], dim=2), video)


def test_normalised_motion_inverts():
    motion = torch.randn(2, 3, 4, 8, 8) * 10
    torch.testing.assert_close(denormalise_motion(normalise_motion(motion)), motion)


def test_motion_module_is_that_of_ssf2020():
    with torch.device("meta"):
        module = MotionModule({"width": 128})
    assert module.num_parameters() == 2_896_963
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert len(shapes) == 16
    assert shapes["motion_encoder.0.weight"] == (128, 6, 5, 5)
    assert shapes["motion_encoder.6.weight"] == (192, 128, 5, 5)
    assert shapes["motion_decoder.0.weight"] == (192, 128, 5, 5)
    assert shapes["motion_decoder.6.weight"] == (128, 3, 5, 5)


@pytest.mark.parametrize("downscale", [1, 2])
@torch.no_grad()
def test_a_new_motion_module_is_near_identity_and_takes_any_size(downscale):
    torch.manual_seed(0)
    video = clip(num_frames=5, height=24, width=40)
    motion = MotionModule({"width": 8, "downscale": downscale})(video, video[:, :, 0])
    assert motion.shape == (2, 3, 5, 24 // downscale, 40 // downscale)
    flow, level = motion.split([2, 1], dim=1)
    assert flow.abs().max() < 0.5
    assert (level - INITIAL_LEVEL).abs().max() < 0.5


@torch.no_grad()
def test_skips_pass_on_what_the_bottleneck_loses():
    """A bottleneck that says nothing leaves the flow alike everywhere, but with skips it still follows the frames."""
    torch.manual_seed(0)
    video = clip(num_frames=2, height=32, width=32)
    plain, skipping = (MotionModule({"width": 8, "skips": skips}) for skips in (False, True))
    skipping.load_state_dict(plain.state_dict())
    for module in (plain, skipping):
        module.motion_encoder[-1].weight.zero_()
        module.motion_encoder[-1].bias.zero_()
    flows = [module(video, video[:, :, 0])[:, :2, 1] for module in (plain, skipping)]
    spreads = [flow[..., 4:-4, 4:-4].std().item() for flow in flows]
    assert spreads[0] < 1e-5 < 1e-3 < spreads[1]


@torch.no_grad()
def test_motion_reads_frames_one_by_one(module):
    video = clip(num_frames=5)
    whole = module(video, video[:, :, 0])
    alone = torch.cat([module(frame, video[:, :, 0]) for frame in video.split(1, dim=2)], dim=2)
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=1e-4)


def test_weights_saved_before_an_option_was_there_are_taken_and_those_of_other_networks_refused():
    saved, same, other = (
        MotionModule(config) for config in ({"width": 8}, {"width": 8, "downscale": 2}, {"width": 8, "skips": True})
    )
    take_weights(same, saved, "runs/earlier")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), same.parameters(), strict=True))
    with pytest.raises(ValueError, match="runs/earlier has another architecture"):
        take_weights(other, saved, "runs/earlier")
