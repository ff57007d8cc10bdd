"""One optimiser step of one player: micro-batches, mean gradient over the processes, finite check, clipping, step.

A CPU reads the loss before the step. A GPU is not waited for: its optimiser leaves the weights alone where loss or
gradient is not finite (as with a gradient scaler), and the scalars are read while the next step is computed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from pipelines.run.data_parallel import kept_apart, player_loss
from pipelines.run.random_keys import Draws
from pipelines.run.ranks import average
from pipelines.run.sharding import whole
from pipelines.run.task import LoopConfig, TrainingTask

NUM_CLIPS_NAMED = 8
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Reading:
    """The scalars of one update, on their way to the CPU."""

    names: Sequence[str]  # the first is the loss, the last the gradient's norm
    values: torch.Tensor  # (n,) on the CPU
    has_arrived: torch.cuda.Event | None  # what to wait for before they are looked at
    reason: Callable[[dict[str, float]], str]  # the sentence for values that are not finite

    def read(self) -> dict[str, float]:
        """{name: value}. ValueError where loss or gradient is not finite; the weights have not taken it then."""
        if self.has_arrived:
            self.has_arrived.synchronize()
        values = dict(zip(self.names, self.values.tolist(), strict=True))
        if not (math.isfinite(values[self.names[0]]) and math.isfinite(values[self.names[-1]])):
            raise ValueError(self.reason(values))
        return values


def update_player(
    task: TrainingTask,
    player: str,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    draws: Draws,
    step: int,
    lr: float,
    config: LoopConfig,
) -> Reading:
    """Update the weights of one player once; reads as {"<player>/loss", "<player>/<term>", "<player>/grad_norm"}.

    The micro-batches' losses are weighted by their share, so the result equals that of the whole batch to rounding.
    Raises ValueError, with the weights untouched, when memory runs out, or on a CPU the loss or the gradient is not
    finite; on a GPU that is told by `Reading.read`.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Another player's loss may have left gradients here; and what is frozen in this phase must have none.
    for other in task.players.values():
        other.zero_grad(set_to_none=True)
    try:
        names, values, micro_losses = _accumulate(task, player, batch, draws, step, config, parameters[0].device)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        raise ValueError(
            f"step {step} of {task.stage} ran out of memory with {len(draws.indices)} samples in this process, "
            f"{config.micro_batch_size or len(draws.indices)} at once: give a smaller micro_batch_size"
        ) from error

    limit = config.clip_grad_norm or math.inf
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(parameters, limit))
    # One transfer per step; the mean over the processes is not finite in all of them when it is not in one.
    means = average(torch.cat([values, grad_norm.reshape(1).to(values)]))
    reading = _send(
        [f"{player}/{name}" for name in (*names, "grad_norm")],
        means,
        lambda logged: _not_finite(task.stage, player, step, logged, batch, micro_losses, config),
    )
    if skips_by_itself(parameters):
        is_finite = torch.isfinite(means[0]) & torch.isfinite(means[-1])
        # read by torch's fused optimisers: 1 = leave the weights
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
    else:
        reading.read()

    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    optimizer.step()
    return reading


def skips_by_itself(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether the optimiser is told on the device to leave these weights alone; not where they are split."""
    return parameters[0].device.type == "cuda" and not any(isinstance(parameter, DTensor) for parameter in parameters)


def _send(names: Sequence[str], values: torch.Tensor, reason: Callable[[dict[str, float]], str]) -> Reading:
    """Copy (n,) values to the CPU without waiting for it."""
    arriving = values.to("cpu", non_blocking=True)
    event = None
    if values.device.type == "cuda":
        event = torch.cuda.Event()
        event.record()
    return Reading(names, arriving, event, reason)


def _accumulate(
    task: TrainingTask,
    player: str,
    batch: dict[str, Any],
    draws: Draws,
    step: int,
    config: LoopConfig,
    device: torch.device,
) -> tuple[list[str], torch.Tensor, list[torch.Tensor]]:
    """Add up the gradient over the micro-batches: names and means (n,) of the scalars, and each micro-batch's loss."""
    names: list[str] = []
    means: torch.Tensor | None = None
    micro_losses = []
    num_samples, compute = len(draws.indices), player_loss(task, player)
    for start, stop in _slices(num_samples, config.micro_batch_size):
        part = {name: _to_device(value[start:stop], device) for name, value in batch.items()}
        share = (stop - start) / num_samples
        with kept_apart(compute, stop < num_samples):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
                loss, terms = compute(part, draws.part(start, stop), step)
            (loss * share).backward()
        names = ["loss", *terms]
        scalars = torch.stack([value.detach().double().reshape(()) for value in (loss, *terms.values())]) * share
        means = scalars if means is None else means + scalars
        micro_losses.append(loss.detach())
    assert means is not None, "a batch holds at least one sample"
    return names, means, micro_losses


def _slices(num_samples: int, micro_batch_size: int) -> Iterator[tuple[int, int]]:
    size = micro_batch_size or num_samples
    for start in range(0, num_samples, size):
        yield start, min(start + size, num_samples)


def _to_device(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _not_finite(
    stage: str,
    player: str,
    step: int,
    logged: dict[str, float],
    batch: dict[str, Any],
    micro_losses: list[torch.Tensor],
    config: LoopConfig,
) -> str:
    names = [str(name) for name in batch.get("path", batch.get("id", batch["index"]))]
    parts = zip(_slices(len(names), config.micro_batch_size), micro_losses, strict=True)
    clips = [name for (start, stop), loss in parts if not torch.isfinite(loss) for name in names[start:stop]]
    values = ", ".join(f"{name} = {value:g}" for name, value in logged.items() if not math.isfinite(value))
    is_elsewhere = not clips and not math.isfinite(logged[f"{player}/loss"])
    clips = clips or names
    more = f" and {len(clips) - NUM_CLIPS_NAMED} more" if len(clips) > NUM_CLIPS_NAMED else ""
    listed = "those that another process names" if is_elsewhere else ", ".join(clips[:NUM_CLIPS_NAMED]) + more
    return (
        f"{stage} stopped at step {step} before updating {player!r}, because {values} (clips: {listed}): look at these "
        f"clips, or give a lower lr{', or precision fp32' if config.precision != 'fp32' else ''}, and start again from "
        "the last checkpoint"
    )
