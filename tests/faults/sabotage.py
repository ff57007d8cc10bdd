"""What goes wrong inside a process: each function changes something for the rest of its life."""

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data import clip_dataset, frame_reader

BAD_STEP = 7
ENDLESS, CRASHING = "endless", "crashing"  # in the names of files


def gradient_is_nan() -> None:
    """The loss of the toy stays finite at one step, but its gradient is not: d sqrt(0 x) / dx = inf 0."""
    import toy_task

    loss = toy_task.ToyTask.loss

    def bad(self: Any, player: str, batch: dict, draws: Any, step: int) -> tuple[torch.Tensor, dict]:
        value, terms = loss(self, player, batch, draws, step)
        if step == BAD_STEP and player == "regressor":
            value = value + torch.sqrt(0 * self.players[player].second.weight.sum())
        return value, terms

    toy_task.ToyTask.loss = bad


def loss_is_nan() -> None:
    """One loss of the toy is not a number at one step."""
    import toy_task

    loss = toy_task.ToyTask.loss

    def bad(self: Any, player: str, batch: dict, draws: Any, step: int) -> tuple[torch.Tensor, dict]:
        value, terms = loss(self, player, batch, draws, step)
        return (value * float("nan"), terms) if step == BAD_STEP else (value, terms)

    toy_task.ToyTask.loss = bad


def decoder_fails() -> None:
    """Files with a word in their name end the process, by a read of address 0, or are decoded without end."""
    chunks = frame_reader.frame_chunks

    def bad(path: Path, *arguments: Any) -> Iterator[np.ndarray]:
        if CRASHING in str(path):
            ctypes.string_at(0)
        while ENDLESS in str(path):
            time.sleep(1)
        yield from chunks(path, *arguments)

    clip_dataset.frame_chunks = bad
