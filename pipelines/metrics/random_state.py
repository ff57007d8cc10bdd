"""Seeded work that leaves PyTorch's global random state as it was, on the CPU and on every GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators begin at `seed`: `torch.manual_seed` sets those of all GPUs too."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
