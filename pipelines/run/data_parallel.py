"""The loss of one player as a module: with several processes torch's DistributedDataParallel averages its gradients
over them, bucket by bucket, while the backward pass still computes others.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipelines.run.task import TrainingTask


class PlayerLoss(torch.nn.Module):
    """`task.loss` of one player, with the player's parameters as its own."""

    def __init__(self, task: TrainingTask, name: str) -> None:
        super().__init__()
        self.name, self.player = name, task.players[name]
        self._task = weakref.ref(task)

    def forward(self, batch: dict, draws: Any, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `TrainingTask.loss`."""
        task = self._task()
        assert task is not None, "whoever trains holds the task"
        return task.loss(self.name, batch, draws, step)


# {task: {player: (names of the parameters that are trained, its loss)}}
_PARALLEL: "weakref.WeakKeyDictionary[Any, dict[str, tuple[tuple[str, ...], DistributedDataParallel]]]" = (
    weakref.WeakKeyDictionary()
)


def player_loss(task: TrainingTask, name: str) -> torch.nn.Module:
    """The loss of a player, called as `PlayerLoss.forward`; its backward pass leaves means over the processes.

    Split weights average their gradients themselves (FSDP2). Every parameter that is trained must get a gradient.
    """
    parameters = dict(task.players[name].named_parameters())
    if not dist.is_initialized() or any(isinstance(parameter, DTensor) for parameter in parameters.values()):
        return PlayerLoss(task, name)
    trained = tuple(key for key, parameter in parameters.items() if parameter.requires_grad)
    known = _PARALLEL.setdefault(task, {})
    if name not in known or known[name][0] != trained:  # a phase of the training that freezes other parts
        known.pop(name, None)
        # all processes hold the same weights already; buffers are constants
        parallel = DistributedDataParallel(
            PlayerLoss(task, name), init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        known[name] = trained, parallel
    return known[name][1]


@contextmanager
def kept_apart(loss: torch.nn.Module, is_apart: bool) -> Iterator[None]:
    """Within it the gradients of this process only add up, to be averaged with those of its last micro-batch."""
    with loss.no_sync() if is_apart and isinstance(loss, DistributedDataParallel) else nullcontext():
        yield
