"""Reads the motion module out of a CompressAI `ssf2020` checkpoint (Agustsson et al. 2020) that the user brings.

Sixteen of its tensors are the motion module M, the same network with other units; image, residual and entropy models
are left aside. Nothing but tensors is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vae.motion_module import MotionModule, MotionModuleConfig
from vae.scale_space_flow import NUM_LEVELS

SSF_WIDTH = 128
# Their flow is a shift in grid_sample's coordinates, where 2 is the size of the image; they trained on 256 x 256 crops.
PIXELS_PER_UNIT = 256 / 2
# Their scale is grid_sample's third coordinate z; the slices of the volume lie at index ((z + 1) slices - 1) / 2.
LEVELS_PER_UNIT = (NUM_LEVELS + 1) / 2
LEVEL_AT_ZERO = LEVELS_PER_UNIT - 0.5


def load_ssf2020(path: Path, architecture: dict) -> MotionModule:
    """A motion module of `architecture` (a dict of `MotionModuleConfig`, width 128) with the checkpoint's weights.

    Its output is in our units: pixels = 128 x their flow on both axes, level = 3 (z + 1) - 0.5, folded into the last
    layer. At downscale 2 it reads half-size frames as if they were the video; levels are then too sharp by about one.
    Raises ValueError, naming the file, for anything that is not such a checkpoint and for another width.
    """
    width = MotionModuleConfig(**architecture).width
    if width != SSF_WIDTH:
        raise ValueError(
            f"{path} fills a motion module of width {SSF_WIDTH} only, but vae.deco_vae.motion_module.width is {width}: "
            f"set it to {SSF_WIDTH}"
        )
    if MotionModuleConfig(**architecture).skips:
        raise ValueError(f"{path} holds a network without skips: set vae.deco_vae.motion_module.skips=false")
    tensors = _read_tensors(path)
    model = MotionModule(architecture)
    state = {}
    for name, own in model.state_dict().items():
        tensor = tensors.get(name, tensors.get(f"module.{name}"))
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(
                f"{path} is not a CompressAI ssf2020 checkpoint: it has no tensor {name}, give another file"
            )
        if tensor.shape != own.shape or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{path} is not a CompressAI ssf2020 checkpoint: {name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected finite numbers of shape {tuple(own.shape)}, give another file"
            )
        state[name] = tensor.float()
    model.load_state_dict(state)
    _convert_units(model)
    return model


def _read_tensors(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}: name a CompressAI ssf2020 checkpoint (.pth.tar)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes it raise anything, from EOFError to struct.error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors ({reason[:120]}): it is cut short, of another kind, or "
            "holds code; download the ssf2020 checkpoint again"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # written by a training script
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not the tensors of a CompressAI ssf2020 checkpoint")
    return content


@torch.no_grad()
def _convert_units(model: MotionModule) -> None:
    """The last layer is linear, out = W x + b: scale its output channels and shift the bias of the level."""
    head = model.motion_decoder[-1]
    scale = torch.tensor([PIXELS_PER_UNIT, PIXELS_PER_UNIT, LEVELS_PER_UNIT])
    head.weight.mul_(scale.reshape(1, 3, 1, 1))  # a transposed convolution: (in, out, height, width)
    head.bias.mul_(scale).add_(torch.tensor([0.0, 0.0, LEVEL_AT_ZERO]))
