"""The losses of a task's players as modules: with several processes torch's DistributedDataParallel averages a player's
gradients over them, bucket by bucket, while the backward pass still computes others.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipelines.run.task import TrainingTask

# torch 2.15 has another name for it
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"


class PlayerLoss(torch.nn.Module):
    """`task.loss` of one player, with the player's parameters as its own."""

    def __init__(self, task: TrainingTask, name: str) -> None:
        super().__init__()
        self.task, self.name, self.player = task, name, task.players[name]

    def forward(self, batch: dict, draws: Any, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `TrainingTask.loss`."""
        return self.task.loss(self.name, batch, draws, step)


class PlayerLosses:
    """The loss of every player of one training, made when it is first asked for."""

    def __init__(self, task: TrainingTask) -> None:
        self._task = task
        # {player: (names of the parameters that are trained, its loss)}
        self._parallel: dict[str, tuple[tuple[str, ...], DistributedDataParallel]] = {}

    def of(self, name: str) -> torch.nn.Module:
        """The loss of a player, called as `PlayerLoss.forward`; its backward pass leaves means over the processes.

        Split weights average their gradients themselves (FSDP2). Every parameter that is trained must get a gradient.
        """
        parameters = dict(self._task.players[name].named_parameters())
        if not dist.is_initialized() or any(isinstance(parameter, DTensor) for parameter in parameters.values()):
            return PlayerLoss(self._task, name)
        trained = tuple(key for key, parameter in parameters.items() if parameter.requires_grad)
        if name not in self._parallel or self._parallel[name][0] != trained:  # a phase that freezes other parts
            self._parallel.pop(name, None)
            # all processes hold the same weights already; buffers are constants
            options: dict[str, Any] = {"init_sync": False, "gradient_as_bucket_view": True, _SYNC_BUFFERS: False}
            parallel = DistributedDataParallel(PlayerLoss(self._task, name), **options)
            self._parallel[name] = trained, parallel
        return self._parallel[name][1]


@contextmanager
def only_added_up(loss: torch.nn.Module, is_on: bool) -> Iterator[None]:
    """Within it, where `is_on`, the gradients of this process are not yet averaged with those of the others."""
    with loss.no_sync() if is_on and isinstance(loss, DistributedDataParallel) else nullcontext():
        yield
