"""I3D: published counts, TensorFlow's SAME padding, every accepted kind of file, and an informative proxy."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pipelines.metrics.i3d import InceptionI3D, MaxPoolSame, Unit3D, pad_same, preprocess
from pipelines.metrics.i3d_self_check import GOLDEN, NOISE, Golden, noise_distance, noise_features, self_check
from pipelines.metrics.i3d_weights import (
    BN_EPS,
    FeatureExtractor,
    absent_weights,
    build_proxy,
    calibration_clips,
    load_i3d,
    weights_word,
)
from pipelines.metrics.weight_files import FILES, KNOWN_CONTENT, content_hash


@pytest.fixture(scope="module")
def proxy() -> InceptionI3D:
    return build_proxy(bn_eps=1e-5)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.randint(0, 256, (1, 9, 24, 20, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_counts_and_names_of_the_public_state_dict(proxy: InceptionI3D) -> None:
    state = proxy.state_dict()
    assert len(state) == 344
    assert sum(parameter.numel() for parameter in proxy.parameters()) == 12_697_264
    assert sum(buffer.numel() for buffer in proxy.buffers()) == 14_617
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_4e.b1b.conv3d.weight"].shape == (288, 144, 3, 3, 3)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    assert {"logits.conv3d.bias", "Conv3d_2b_1x1.bn.running_var", "Mixed_5c.b3b.bn.num_batches_tracked"} <= state.keys()


def independent_same_convolution(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """TensorFlow's SAME per output position: window i starts at i * stride - total // 2, outside is zero."""
    kernel = weight.shape[2]
    sizes = [-(-size // stride) for size in x.shape[2:]]
    befores = [max((n - 1) * stride + kernel - size, 0) // 2 for n, size in zip(sizes, x.shape[2:], strict=True)]
    embedded = torch.zeros(*x.shape[:2], *(size + 2 * kernel + stride for size in x.shape[2:]))
    t, h, w = x.shape[2:]
    embedded[:, :, kernel : kernel + t, kernel : kernel + h, kernel : kernel + w] = x
    output = torch.zeros(x.shape[0], weight.shape[0], *sizes)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in sizes)).tolist():
        starts = [kernel + i * stride - before for i, before in zip(index, befores, strict=True)]
        window = embedded[(..., *(slice(start, start + kernel) for start in starts))]
        output[(..., *index)] = torch.einsum("bcthw,octhw->bo", window, weight)
    return output


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("size", [(9, 6, 7), (4, 8, 5)])
def test_unit_pads_as_tensorflow_same(kernel: int, stride: int, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    unit = Unit3D(2, 3, kernel, stride, bn_eps=None)
    x = torch.randn(1, 2, *size)
    expected = independent_same_convolution(x, unit.conv3d.weight, stride) + unit.conv3d.bias[:, None, None, None]
    torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (2, 2, 2))])
def test_max_pool_pads_as_tensorflow_same(kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    x = torch.rand(1, 2, 5, 8, 7, generator=torch.Generator().manual_seed(1))
    expected = F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)
    assert expected.shape[2:] == tuple(-(-size // step) for size, step in zip(x.shape[2:], stride, strict=True))
    assert torch.equal(MaxPoolSame(kernel, stride)(x), expected)


@pytest.mark.parametrize("num_frames", [9, 16, 17])
def test_forward_for_the_frame_counts_of_the_protocols(proxy: InceptionI3D, num_frames: int) -> None:
    with torch.inference_mode():
        logits = proxy(torch.zeros(1, 3, num_frames, 193, 201))  # odd sizes that still leave 7 x 7
        trunk = proxy.trunk(torch.zeros(1, 3, num_frames, 33, 40))
    assert logits.shape == (1, 400)
    assert trunk.shape == (1, 1024, -(-num_frames // 8), 2, 2)


def test_preprocess_is_bilinear_without_antialias(clip: torch.Tensor) -> None:
    video = preprocess(clip)
    assert video.shape == (1, 3, 9, 224, 224)
    frame = clip[0, 4, :, :, 1].double()
    source = ((torch.arange(224) + 0.5) * 24 / 224 - 0.5).clamp(0, 23)  # rows; half-pixel centres
    low, weight = source.floor().long(), source - source.floor()
    column = frame[low, 0] * (1 - weight) + frame[(low + 1).clamp(max=23), 0] * weight
    torch.testing.assert_close(video[0, 1, 4, :, 0].double(), column / 127.5 - 1, rtol=0, atol=1e-4)
    white = preprocess(torch.full((1, 1, 5, 5, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.ones_like(white))


# ---------------------------------------------------------------- the network, said once more from its state dict

POOLED_FIRST = {"Conv3d_2b_1x1": (1, 3, 2), "Mixed_3b": (1, 3, 2), "Mixed_4b": (3, 3, 2), "Mixed_5b": (2, 2, 2)}
BLOCKS = ["Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c"]


def same_border(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> torch.Tensor:
    """Put x into a larger tensor of `value`: TensorFlow's SAME gives ceil(n / stride) windows, the odd cell behind."""
    sizes = x.shape[2:]
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    larger = x.new_full((*x.shape[:2], *(n + total for n, total in zip(sizes, totals, strict=True))), value)
    inside = [slice(total // 2, total // 2 + n) for n, total in zip(sizes, totals, strict=True)]
    larger[(..., *inside)] = x
    return larger


def restated_unit(x: torch.Tensor, state: dict, name: str, eps: float, stride: int = 1) -> torch.Tensor:
    weight = state[f"{name}.conv3d.weight"]
    kernel, steps = tuple(weight.shape[2:]), (stride, stride, stride)
    x = F.conv3d(same_border(x, kernel, steps, 0.0), weight, stride=steps)
    gain = state[f"{name}.bn.weight"] / (state[f"{name}.bn.running_var"] + eps) ** 0.5
    shift = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * gain
    return (x * gain[:, None, None, None] + shift[:, None, None, None]).clamp(min=0)


def restated_pool(x: torch.Tensor, frames: int, pixels: int, stride: int) -> torch.Tensor:
    """The frame axis keeps its length where the window is one frame long; TensorFlow pads with -inf."""
    kernel, steps = (frames, pixels, pixels), (1 if frames == 1 else stride, stride, stride)
    return F.max_pool3d(same_border(x, kernel, steps, -torch.inf), kernel, steps)


def restated_trunk(x: torch.Tensor, state: dict, eps: float) -> torch.Tensor:
    x = restated_unit(x, state, "Conv3d_1a_7x7", eps, stride=2)
    x = restated_pool(x, *POOLED_FIRST["Conv3d_2b_1x1"])
    x = restated_unit(restated_unit(x, state, "Conv3d_2b_1x1", eps), state, "Conv3d_2c_3x3", eps)
    for block in BLOCKS:
        if block in POOLED_FIRST:
            x = restated_pool(x, *POOLED_FIRST[block])
        one = restated_unit(x, state, f"{block}.b0", eps)
        two = restated_unit(restated_unit(x, state, f"{block}.b1a", eps), state, f"{block}.b1b", eps)
        three = restated_unit(restated_unit(x, state, f"{block}.b2a", eps), state, f"{block}.b2b", eps)
        four = restated_unit(restated_pool(x, 3, 3, 1), state, f"{block}.b3b", eps)
        x = torch.cat([one, two, three, four], dim=1)
    return x


def restated_logits(trunk: torch.Tensor, state: dict) -> torch.Tensor:
    """Means over every window of 2 frames x 7 x 7 cells, a linear layer, the mean over all windows."""
    windows = trunk.unfold(2, 2, 1).unfold(3, 7, 1).unfold(4, 7, 1).mean(dim=(5, 6, 7))
    weight = state["logits.conv3d.weight"][:, :, 0, 0, 0]
    logits = torch.einsum("bcthw,oc->bothw", windows, weight) + state["logits.conv3d.bias"][:, None, None, None]
    return logits.mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def random_i3d(proxy: InceptionI3D) -> InceptionI3D:
    """In fp64, with gains, shifts and a bias that the proxy does not have."""
    network = InceptionI3D(bn_eps=1e-3)
    network.load_state_dict(proxy.state_dict())
    generator = torch.Generator().manual_seed(11)
    for name, parameter in network.named_parameters():
        if name.endswith("bn.weight"):
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)
        elif name.endswith("bias"):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.double().eval()


@pytest.mark.parametrize(("num_frames", "height", "width"), [(9, 33, 40), (16, 45, 31), (17, 37, 53), (32, 29, 35)])
def test_the_trunk_equals_its_restatement(random_i3d: InceptionI3D, num_frames: int, height: int, width: int) -> None:
    x = torch.rand(1, 3, num_frames, height, width, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        ours = random_i3d.trunk(x)
        theirs = restated_trunk(x, random_i3d.state_dict(), eps=1e-3)
        other_eps = restated_trunk(x, random_i3d.state_dict(), eps=1e-5)
    assert ours.shape == (1, 1024, -(-num_frames // 8), -(-height // 32), -(-width // 32))
    assert (ours - theirs).abs().max() <= 1e-10 * max(1.0, ours.abs().max().item())
    assert (ours - other_eps).abs().max() > 1e-6, "eps of the batch norms counts"


@pytest.mark.parametrize(
    ("num_frames", "height", "width"), [(9, 193, 201), (16, 224, 224), (17, 225, 193), (32, 224, 224)]
)
def test_the_head_equals_its_restatement(random_i3d, monkeypatch, num_frames: int, height: int, width: int) -> None:
    shape = (2, 1024, -(-num_frames // 8), -(-height // 32), -(-width // 32))
    trunk = torch.rand(shape, dtype=torch.float64)
    monkeypatch.setattr(random_i3d, "trunk", lambda x: x)  # from the trunk's output on
    with torch.inference_mode():
        difference = random_i3d(trunk) - restated_logits(trunk, random_i3d.state_dict())
    assert difference.abs().max() <= 1e-10


# ---------------------------------------------------------------- files


def know(patch: pytest.MonkeyPatch, path: Path) -> None:
    """From now on this file is the known one of its name."""
    kind, _ = KNOWN_CONTENT[path.name]
    patch.setitem(KNOWN_CONTENT, path.name, (kind, content_hash(path)))


def test_files_load_strictly_with_the_epsilon_of_their_kind(proxy: InceptionI3D, clip, tmp_path, monkeypatch) -> None:
    """Of TensorFlow's original 1e-3, of VideoGPT's port 1e-5; one set of numbers in both files tells them apart."""
    ported, original = tmp_path / "a" / "i3d_pretrained_400.pt", tmp_path / "b" / "i3d_kinetics400.safetensors"
    for path in (ported, original):
        path.parent.mkdir()
    torch.save(proxy.state_dict(), ported)
    save_file(proxy.state_dict(), original)
    for path, expected in (
        (ported, "git-blob hash .*expected a867b87a"),
        (original, "tensors hash .*expected 0dd31a0d"),
    ):
        with pytest.raises(ValueError, match=f"{path} is cut short or another file .{expected}.*remove it"):
            load_i3d(path.parent)
        know(monkeypatch, path)
    other_eps = InceptionI3D(1e-3).eval()
    other_eps.load_state_dict(proxy.state_dict())
    features = []
    for path, network in ((ported, proxy), (original, other_eps)):
        extractor = load_i3d(path.parent)
        assert not extractor.is_proxy and extractor.weights_hash == content_hash(path)
        features.append(extractor.features(clip))
        with torch.inference_mode():
            assert torch.equal(features[-1], network(preprocess(clip)))
    assert not torch.allclose(*features, rtol=1e-5)


def test_wrong_files_are_refused_in_one_sentence(proxy: InceptionI3D, tmp_path, monkeypatch) -> None:
    state = proxy.state_dict()
    state.pop("logits.conv3d.bias")
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(state, path)
    know(monkeypatch, path)
    with pytest.raises(ValueError, match="i3d_pretrained_400.pt .*logits.conv3d.bias"):
        load_i3d(tmp_path)
    torch.save({"weights": print}, path)  # a pickle that names a function
    know(monkeypatch, path)
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        load_i3d(tmp_path)
    (tmp_path / "i3d_torchscript.pt").write_bytes(b"an error page")
    with pytest.raises(ValueError, match="expected 93daef59"):
        load_i3d(tmp_path)


def test_who_has_no_weights_is_told_the_command_that_fetches_them() -> None:
    sentence = absent_weights("weights")
    assert "(python pipelines/weights.py i3d)" in sentence and "proxy" in sentence and "\n" not in sentence
    assert "(python pipelines/weights.py i3d weights.folder=elsewhere)" in absent_weights("elsewhere")


def test_ids_of_scores_name_the_weights() -> None:
    names = {"i3d_kinetics400.safetensors": "i3d-0dd31a0d", "i3d_torchscript.pt": "i3d_torchscript", "": ""}
    for file, word in names.items():
        assert weights_word(file, KNOWN_CONTENT[file][1] if file else "random-1f") == word
    assert set(BN_EPS) == {file for name, files in FILES.items() if name.startswith("i3d") for file in files}


class ToyScript(torch.nn.Module):
    """The signature of the TorchScript I3D."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(400))

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert return_features and rescale == resize
        if rescale:
            x = x / 127.5 - 1
        return x.mean(dim=[1, 2, 3, 4]).unsqueeze(1) * self.weight


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureExtractor:
    """Loaded by the real loader from a TorchScript file, which the table of hashes knows."""
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(ToyScript()).save(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("an unknown TorchScript file is not opened"))
        with pytest.raises(ValueError, match="expected 93daef59"):
            load_i3d(tmp_path)
    know(monkeypatch, path)
    return load_i3d(tmp_path, precision="bf16")


IGNORE_JIT = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")


@IGNORE_JIT
def test_torchscript_is_opened_only_with_the_known_hash(toy: FeatureExtractor, clip: torch.Tensor) -> None:
    expected = (clip.float() / 127.5 - 1).mean() * torch.ones(1, 400)
    torch.testing.assert_close(toy.features(clip), expected, rtol=1e-4, atol=1e-6)
    assert not toy.is_proxy and toy.precision == "fp32", "published scores ran it in fp32"


@IGNORE_JIT
def test_a_protocol_gets_the_file_that_it_wants(
    toy: FeatureExtractor, proxy: InceptionI3D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise TensorFlow's original comes first, then TorchScript."""
    torch.save(proxy.state_dict(), tmp_path / "i3d_pretrained_400.pt")
    know(monkeypatch, tmp_path / "i3d_pretrained_400.pt")
    names = ["i3d_torchscript.pt", "i3d_pretrained_400.pt"]
    assert [load_i3d(tmp_path, preferred=name).weights_file for name in names] == names
    original = "i3d_kinetics400.safetensors"
    assert load_i3d(tmp_path, preferred=original).weights_file == "i3d_torchscript.pt"
    save_file(proxy.state_dict(), tmp_path / original)
    know(monkeypatch, tmp_path / original)
    assert load_i3d(tmp_path).weights_file == original


# ---------------------------------------------------------------- self-check


@IGNORE_JIT
def test_the_self_check_measures_the_golden_distances(toy: FeatureExtractor) -> None:
    """The toy's features are 400 times the mean: black is -1, white 1; the noise is numpy's, fed as it is."""
    means = [
        np.random.RandomState(seed)
        .rand(3, 16, 224, 224, 3)
        .astype(np.float32)
        .mean(axis=(1, 2, 3, 4), dtype=np.float64)
        for seed in (1, 2)
    ]
    noise = 400 * ((means[0].mean() - means[1].mean()) ** 2 + (means[0].std(ddof=1) - means[1].std(ddof=1)) ** 2)
    assert self_check(toy, Golden(4 * 400.0, 0.01)) == pytest.approx(1600, rel=1e-6)
    assert noise_distance(toy, 3) == pytest.approx(noise, abs=1e-6)
    assert noise_features(toy, 1, 3).shape == (3, 400)
    with pytest.raises(ValueError, match=r"i3d_torchscript.pt fails its self-check.*1600\.0.*expected 151"):
        self_check(toy, GOLDEN["i3d_torchscript.pt"])


def test_the_golden_values_are_those_of_the_evidence() -> None:
    assert GOLDEN.keys() == BN_EPS.keys(), "no file is used unchecked"
    assert {file: golden.distance for file, golden in GOLDEN.items()} == {
        "i3d_kinetics400.safetensors": 151.3925,
        "i3d_torchscript.pt": 151.2565,
        "i3d_pretrained_400.pt": 151.2565,
    }
    assert max(golden.tolerance for golden in GOLDEN.values()) <= 1 and NOISE == 10.138085


def test_proxy_is_fixed_and_leaves_the_global_generator_alone(proxy: InceptionI3D, tmp_path) -> None:
    state = torch.random.get_rng_state()
    first, second = load_i3d(tmp_path), load_i3d(tmp_path, precision="bf16")
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.is_proxy and first.weights_hash == second.weights_hash and first.weights_hash.startswith("random-")
    assert torch.equal(first.network.Mixed_4c.b1b.bn.running_var, proxy.Mixed_4c.b1b.bn.running_var)


def test_proxy_features_do_not_collapse_and_bf16_agrees(tmp_path) -> None:
    video = calibration_clips(3, torch.Generator().manual_seed(5))[:, :, :9, ::3, ::3].movedim(1, -1)
    video_uint8 = (video * 127.5 + 127.5).to(torch.uint8)
    features = load_i3d(tmp_path).features(video_uint8)
    centred = features - features.mean(dim=0)
    assert centred.norm() > 0.1 * features.norm()
    directions = F.normalize(features, dim=1)
    assert (directions @ directions.T).fill_diagonal_(0).max() < 0.98
    close = load_i3d(tmp_path, precision="bf16").features(video_uint8[:1])
    assert (close - features[:1]).norm() < 0.2 * centred[:1].norm()
    still = load_i3d(tmp_path).features(video_uint8[:1, :1].expand(-1, 9, -1, -1, -1))
    assert (still - features[:1]).norm() > 0.2 * centred[:1].norm()  # motion alone moves the features


def test_proxy_sees_change_only_and_features_have_length_1(proxy: InceptionI3D, tmp_path) -> None:
    moving = torch.rand(1, 3, 16, 32, 32, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():  # without frames of zeros before and after the clip
        seen, still = (proxy.Conv3d_1a_7x7.conv3d(x) for x in (moving, moving[:, :, :1].expand(-1, -1, 16, -1, -1)))
    assert still.abs().max() < 1e-5 * seen.abs().max()
    video = torch.randint(0, 256, (2, 9, 16, 16, 3), generator=torch.Generator().manual_seed(9), dtype=torch.uint8)
    torch.testing.assert_close(load_i3d(tmp_path).features(video).norm(dim=1), torch.ones(2))


def test_slices_and_copies_of_a_clip_give_equal_features(tmp_path) -> None:
    video = torch.randint(0, 256, (1, 12, 16, 16, 3), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    extractor = load_i3d(tmp_path, precision="bf16")  # where another memory layout would round differently
    part = video[:, 2:11]
    assert torch.equal(extractor.features(part), extractor.features(part.contiguous()))


def test_golden_features_of_the_proxy(proxy: InceptionI3D) -> None:
    """Proxy scores of two machines are comparable only while these numbers stand."""
    clip = calibration_clips(1, torch.Generator().manual_seed(7))[:, :, :9, :32, :32].movedim(1, -1)
    with torch.inference_mode():
        features = proxy(preprocess((clip * 127.5 + 127.5).to(torch.uint8)))[0, ::50]
    path = Path(__file__).parents[1] / "golden" / "metrics_i3d_proxy.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(features.tolist()) + "\n")
    torch.testing.assert_close(features, torch.tensor(json.loads(path.read_text())), rtol=1e-3, atol=1e-3)


def test_too_short_or_float_clips_are_refused(clip: torch.Tensor, tmp_path) -> None:
    extractor = load_i3d(tmp_path)
    for wrong in (clip[:, :8], clip.float()):
        with pytest.raises(ValueError, match="at least 9 frames"):
            extractor.features(wrong)
    with pytest.raises(ValueError, match="fp32 or bf16"):
        load_i3d(tmp_path, precision="fp16")


def test_inception_channels_chain() -> None:
    from pipelines.metrics.i3d import INCEPTION_CHANNELS

    blocks = [getattr(InceptionI3D(), name) for name in INCEPTION_CHANNELS]
    for before, after in pairwise(blocks):
        total = sum(branch.conv3d.out_channels for branch in (before.b0, before.b1b, before.b2b, before.b3b))
        assert total == after.b0.conv3d.in_channels
