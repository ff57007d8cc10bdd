"""Keyed randomness: each random draw is a pure function of what it is for, never of a carried-over generator.

A draw is keyed by (seed, stage, step, index in the global batch, name), so neither the batch size, nor the number of
processes, nor a resume can change it.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch


def key(seed: int, *names: str | int) -> int:
    """Hash (seed, *names) to an integer in [0, 2**63). The same on every machine; 1 and "1" are different names."""
    digest = blake2b(repr((int(seed), *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Draws:
    """The random generators of one training step: `draws("noise")` is a list of CPU generators, one per sample.

    indices: positions of the samples in the GLOBAL batch of `step`. Calling twice with one name restarts the same
    generators; give each draw of a step its own name.
    """

    def __init__(self, seed: int, stage: str, step: int, indices: Sequence[int]) -> None:
        self.seed, self.stage, self.step = seed, stage, step
        self.indices = [int(index) for index in indices]

    def __call__(self, name: str) -> list[torch.Generator]:
        keys = [key(self.seed, self.stage, self.step, index, name) for index in self.indices]
        return [torch.Generator().manual_seed(sample_key) for sample_key in keys]

    def part(self, start: int, stop: int) -> "Draws":
        """The draws of the samples start:stop, equal to theirs in the whole: what a micro-batch uses."""
        return Draws(self.seed, self.stage, self.step, self.indices[start:stop])
