"""Device and processes: one process on a CPU or GPU, or several under torchrun. accelerate finds out which."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState

from pipelines.run.live_line import told

# rank 0 validates and saves alone while the others wait
LONGEST_WAIT = timedelta(hours=6)
Result = TypeVar("Result")


def num_started() -> int:
    """How many processes were started together; known before they `connect`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes, of those that were started together; a lone one is."""
    return num_started() == 1 or int(os.environ.get("RANK", "0")) == 0


def connect(device: str = "auto") -> PartialState:
    """Join the other processes, if any, and choose the device; `.device .process_index .num_processes` are read.

    device: auto, cpu or cuda. Raises ValueError for cuda on a machine without one.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda, but torch finds no CUDA device: use run.device=auto or cpu")
    if not PartialState._shared_state:
        # Without a GPU accelerate must be told so: else processes under torchrun each believe to be the only one.
        # Apple's GPUs lack fp64, which schedules and updates need.
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        return PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    return PartialState()


def is_connected() -> bool:
    """Whether this process has met others."""
    return dist.is_available() and dist.is_initialized()


def disconnect() -> None:
    """Leave the process group, if any: without this a process of several aborts at its end."""
    if dist.is_available() and dist.is_initialized():
        processors.cache_clear()
        dist.destroy_process_group()


def choose_device(device: str = "auto") -> torch.device:
    """The device of a stage: `connect(device).device`."""
    return connect(device).device


def average(values: torch.Tensor) -> torch.Tensor:
    """The mean over the processes of a small tensor (n,)."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values = values / dist.get_world_size()
    return values


def largest(value: float) -> float:
    """The largest `value` of all processes; no GPU is waited for."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=processors())
    return tensor.item()


@functools.cache
def processors() -> dist.ProcessGroup | None:
    """All processes, to exchange what lies in the memory of their CPUs; None = the group that there is."""
    if dist.get_backend() == "gloo":
        return None
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=LONGEST_WAIT))


def wait() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Give every process rank 0's values, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def shared(jobs: Sequence[Callable[[], Result]], label: str) -> list[Result]:
    """What every job gives, in their order: each process does some of them, and has the results of all.

    The first process tells how far it is, under `label`.
    """
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    own = jobs[rank::count]
    found = [job() for job in told(own, label, "part", len(own), is_silent=rank > 0)]
    if count == 1:
        return found
    results: list[list[Result]] = [[] for _ in range(count)]
    dist.all_gather_object(results, found, group=processors())
    return [results[number % count][number // count] for number in range(len(jobs))]
