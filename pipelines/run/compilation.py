"""`torch.compile` of a model's blocks, one at a time: half a minute where the whole model takes ten."""

from __future__ import annotations

import os
import shutil

import torch._dynamo
from torch import nn

# A block is compiled again for every width and number of frames, and none of these must fall back to eager.
LARGEST_NUM_SHAPES = 64


def compile_blocks(model: nn.Module, kind: type[nn.Module]) -> None:
    """Compile every module of `kind` in place; parameters and their names stay. ValueError without a C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"torch.compile needs a C++ compiler, and {' or '.join(names)} is not found: install g++, or do not compile"
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LARGEST_NUM_SHAPES)
    for module in model.modules():
        if isinstance(module, kind):
            module.compile(dynamic=False)  # else one smaller micro-batch makes every later one run a general graph
