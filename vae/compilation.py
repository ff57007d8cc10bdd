"""`torch.compile` of the residual blocks, one kind of block at a time: half a minute where the whole takes ten."""

from __future__ import annotations

import os
import shutil

import torch._dynamo
from torch import nn

from vae.blocks import ResidualBlock

# A block is compiled again for every width and number of frames, and none of these must fall back to eager.
LARGEST_NUM_SHAPES = 64


def compile_blocks(model: nn.Module) -> None:
    """Compile every residual block in place; parameters and their names stay. ValueError without a C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"torch.compile needs a C++ compiler, and {' or '.join(names)} is not found: install g++, or do not compile"
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LARGEST_NUM_SHAPES)
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.compile()
