"""CompressAI's ssf2020 checkpoints: their units against ours, and a clear sentence for every other file."""

import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from nano_run import nano
from tiny_vae import clip
from torch import nn

from pipelines import prepare_data, train_motion, train_vae
from pipelines.run.hashes import hash_file
from vae.motion_module import MotionModule
from vae.scale_space_flow import gaussian_volume, warp
from vae.ssf2020 import load_ssf2020

SIZES = {"motion_encoder": [6, 128, 128, 128, 192], "motion_decoder": [192, 128, 128, 128, 3]}
FULL = {"width": 128, "downscale": 1}


def their_network():
    """Motion encoder and decoder of the published layout, with seeded weights whose flow is a few pixels."""
    torch.manual_seed(0)
    parts = nn.ModuleDict()
    for name, sizes in SIZES.items():
        layers = []
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            if name == "motion_encoder":
                layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), nn.ReLU()]
            else:
                layers += [nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1), nn.ReLU()]
        parts[name] = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        parts["motion_decoder"][-1].bias.copy_(torch.tensor([0.02, -0.03, -0.6]))
    return parts.eval()


@pytest.fixture(scope="module")
def network():
    return their_network()


@pytest.fixture(scope="module")
def state(network):
    others = {"img_encoder.0.weight": torch.zeros(2, 2), "motion_hyperprior.entropy_bottleneck._offset": torch.ones(1)}
    return network.state_dict() | others


@pytest.fixture
def nano_config(tmp_path):
    """nano.yaml with a motion module of the checkpoint's width, one step of each training."""

    def make(*arguments):
        options = [
            "run.name=ssf",
            *(
                "motion.loop.steps=1",
                "vae.loop.steps=1",
                "data.shapes.train_per_class=1",
                "vae.loop.preview_every=0",
                "motion.loop.preview_every=0",
            ),
            *("vae.deco_vae.motion_module.width=128", "vae.deco_vae.motion_module.downscale=1"),
        ]
        return nano(tmp_path / "runs", *options, *arguments)

    return make


def save(path, content):
    torch.save(content, path)
    return path


@torch.no_grad()
def test_their_warp_equals_ours(network, state, tmp_path):
    """One pair of 256 x 256 frames: flow and scale in grid_sample's coordinates against pixels and levels."""
    video = clip(1, 2, 256, 256)
    keyframe, current = video[:, :, 0], video[:, :, 1]
    prediction = network["motion_decoder"](network["motion_encoder"]((torch.cat([current, keyframe], 1) + 1) / 2))
    flow, scale = prediction.split([2, 1], dim=1)
    plane = F.affine_grid(torch.eye(2, 3).unsqueeze(0), [1, 3, 256, 256], align_corners=False)  # (1, 256, 256, 2)
    grid = torch.cat([plane + flow.movedim(1, 3), scale.movedim(1, 3)], dim=3).unsqueeze(1)
    theirs = F.grid_sample(gaussian_volume(keyframe), grid, padding_mode="border", align_corners=False)
    module = load_ssf2020(save(tmp_path / "ssf2020-mse-9.pth.tar", state), FULL)
    motion = module(video[:, :, 1:], keyframe)
    assert (motion[:, :2] - 128 * flow.unsqueeze(2)).abs().max() < 1e-3
    assert motion[:, :2].abs().mean() > 1
    torch.testing.assert_close(warp(keyframe, motion), theirs, atol=1e-4, rtol=0)


def test_every_layout_of_the_file_is_read(state, tmp_path):
    plain = load_ssf2020(save(tmp_path / "plain.pth.tar", state), FULL).state_dict()
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    nested = {"epoch": 7, "state_dict": parallel, "optimizer": {"lr": 1e-4}}
    for name, content in (("parallel", parallel), ("nested", nested)):
        read = load_ssf2020(save(tmp_path / name, content), FULL).state_dict()
        assert all(torch.equal(read[key], tensor) for key, tensor in plain.items())
    assert len(plain) == 16
    assert sum(tensor.numel() for tensor in plain.values()) == 2_896_963


@torch.no_grad()
def test_it_works_at_half_resolution(state, tmp_path):
    video = clip(1, 3, 40, 64)
    module = load_ssf2020(save(tmp_path / "a.pth.tar", state), {"width": 128, "downscale": 2})
    assert module(video, video[:, :, 0]).shape == (1, 3, 3, 20, 32)


class Harmful:
    def __reduce__(self):
        return print, ("code from a file was run",)


def test_anything_else_is_refused(state, tmp_path, capsys):
    path = tmp_path / "file.pth.tar"
    with pytest.raises(ValueError, match="no file .*ssf2020"):
        load_ssf2020(path, FULL)
    with pytest.raises(ValueError, match=r"128 .*vae.deco_vae.motion_module.width is 64"):
        load_ssf2020(save(path, state), {"width": 64})
    missing = {name: tensor for name, tensor in state.items() if name != "motion_decoder.6.bias"}
    with pytest.raises(ValueError, match=r"motion_decoder.6.bias"):
        load_ssf2020(save(path, missing), FULL)
    name = "motion_encoder.0.weight"
    for tensor, shown in ((torch.zeros(64, 6, 5, 5), r"float32 \(64, 6, 5, 5\)"), (torch.zeros(2).long(), "int64")):
        with pytest.raises(ValueError, match=rf"{name} is torch.{shown}.*, expected .* \(128, 6, 5, 5\)"):
            load_ssf2020(save(path, state | {name: tensor}), FULL)
    with pytest.raises(ValueError, match="expected finite numbers"):
        load_ssf2020(save(path, state | {name: state[name] / 0}), FULL)
    with pytest.raises(ValueError, match="holds a list, not the tensors"):
        load_ssf2020(save(path, [1, 2]), FULL)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_and_harmful_files_are_refused(legacy, state, tmp_path, capsys):
    """Both containers of torch.save, cut at several places, and pickles that would call something."""
    whole, path = tmp_path / "whole.pth.tar", tmp_path / "cut.pth.tar"
    torch.save({name: state[name] for name in state}, whole, _use_new_zipfile_serialization=not legacy)
    content = whole.read_bytes()
    for length in (0, 1, 100, 1000, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors") as caught:
            load_ssf2020(path, FULL)
        assert "\n" not in str(caught.value)
    torch.save(state | {"more": Harmful()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors"):
        load_ssf2020(path, FULL)
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors"):
        load_ssf2020(path, FULL)
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors"):
        load_ssf2020(path, FULL)
    assert capsys.readouterr().out == ""


def test_it_does_not_fill_a_network_with_skips(state, tmp_path):
    with pytest.raises(ValueError, match="skips=false"):
        load_ssf2020(save(tmp_path / "ssf.pth.tar", state), FULL | {"skips": True})


def test_it_starts_both_trainings(state, tmp_path, nano_config):
    """motion.init_from and vae.motion_from take the file; its hash stands in the provenance."""
    file = save(tmp_path / "ssf.pth.tar", state)
    config = nano_config(f"motion.init_from={file}", f"vae.motion_from={file}")
    prepare_data.run(config)
    train_motion.run(config)
    train_vae.run(config)
    expected = load_ssf2020(file, FULL).state_dict()
    trained = MotionModule.from_pretrained(tmp_path / "runs/ssf/train_motion/last", low_cpu_mem_usage=False)
    for stage, name in (("train_motion", "initial weights"), ("train_vae", "motion module")):
        inputs = json.loads((tmp_path / "runs/ssf" / stage / "provenance.json").read_text())["inputs"]
        assert inputs[name] == {"path": str(file), "hash": hash_file(file)}
    for key, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], atol=1e-3, rtol=1e-3)  # one step from where it started
    with pytest.raises(ValueError, match="there is no file"):
        train_vae.run(nano_config("vae.motion_from=gone.pth.tar"))
