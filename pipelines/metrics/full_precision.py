"""Scores of a GPU are to be those of a CPU: products in fp32 keep all their bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, no product is rounded to TF32, which a GPU's convolutions are by default.

    cuDNN stays on: `torch.backends.cudnn.flags(allow_tf32=False)` would switch it off (pytorch#77467).
    """
    backends: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
