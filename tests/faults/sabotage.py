"""What goes wrong inside a process: each function changes something for the rest of its life."""

from typing import Any

import torch

BAD_STEP = 7


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
