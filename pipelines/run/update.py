"""The two halves of an update of one player: its gradient, added up over micro-batches, and the optimiser's step.

A CPU reads the loss before the step. A GPU is not waited for: its optimiser leaves the weights alone where loss or
gradient is not finite (as with a gradient scaler), and the scalars are read while the next step is computed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from pipelines.run.data_parallel import only_added_up
from pipelines.run.random_keys import Draws
from pipelines.run.ranks import average
from pipelines.run.sharding import whole
from pipelines.run.training_state import TrainingState

NUM_CLIPS_NAMED = 8
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Accumulated:
    """What is known of a gradient that lies in a player's parameters."""

    player: str
    step: int
    names: Sequence[str]  # "loss", then those of the terms
    means: torch.Tensor  # (n,) float64: the scalars of these names, means over the samples of this process
    micro_batches: Sequence[tuple[Sequence[Any], torch.Tensor]]  # names of the clips and loss of each


@dataclass(frozen=True)
class UpdateScalars:
    """The scalars of one update, on their way to the CPU."""

    names: Sequence[str]  # the first is the loss, the last the gradient's norm
    values: torch.Tensor  # (n,) on the CPU
    has_arrived: torch.cuda.Event | None  # what to wait for before they are looked at
    refusal: Callable[[dict[str, float]], str]  # the sentence for values that are not finite

    def read(self) -> dict[str, float]:
        """{name: value}. ValueError where loss or gradient is not finite; the weights have not taken it then."""
        if self.has_arrived:
            self.has_arrived.synchronize()
        values = dict(zip(self.names, self.values.tolist(), strict=True))
        if not (math.isfinite(values[self.names[0]]) and math.isfinite(values[self.names[-1]])):
            raise ValueError(self.refusal(values))
        return values


def accumulate_gradient(
    state: TrainingState, player: str, batch: dict[str, Any], draws: Draws, step: int
) -> Accumulated:
    """Leave the gradient of the mean loss over `batch`, and over all processes, in the parameters of one player.

    The micro-batches' losses are weighted by their share, so the result equals that of the whole batch to rounding.
    Raises ValueError, with the weights untouched, when memory runs out.
    """
    state.clear_gradients()
    device, config = state.device, state.config
    num_samples, compute = len(draws.indices), state.losses.of(player)
    size, clips = config.micro_batch_size or num_samples, batch.get("path", draws.indices)
    names, means, micro_batches = ["loss"], torch.zeros((), dtype=torch.float64, device=device), []
    with _lack_of_memory_explained(state, num_samples, step):
        for start in range(0, num_samples, size):
            stop = min(start + size, num_samples)
            share = (stop - start) / num_samples
            part = {name: _to_device(value[start:stop], device) for name, value in batch.items()}
            with only_added_up(compute, stop < num_samples):
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
                    loss, terms = compute(part, draws.part(start, stop), step)
                (loss * share).backward()
            names = ["loss", *terms]
            scalars = torch.stack([value.detach().double().reshape(()) for value in (loss, *terms.values())])
            means = means + scalars * share  # (n,)
            micro_batches.append((clips[start:stop], loss.detach()))
    return Accumulated(player, step, names, means, micro_batches)


def take_step(state: TrainingState, gradient: Accumulated) -> UpdateScalars:
    """Clip the gradient and update the player's weights by it; reads as {"<player>/<name>", "<player>/grad_norm"}.

    Raises ValueError, with the weights untouched, when on a CPU the loss or the gradient is not finite; on a GPU that
    is told by `UpdateScalars.read`.
    """
    optimizer = state.optimizers[gradient.player]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(parameters, state.config.clip_grad_norm or math.inf))

    # One transfer per step; the mean over the processes is not finite in all of them when it is not in one.
    means = average(torch.cat([gradient.means, grad_norm.reshape(1).to(gradient.means)]))
    names = [f"{gradient.player}/{name}" for name in (*gradient.names, "grad_norm")]
    scalars = _send(names, means, lambda values: _not_finite(state, gradient, values))
    if skips_by_itself(parameters):
        is_finite = torch.isfinite(means[0]) & torch.isfinite(means[-1])
        # read by torch's fused optimisers: 1 = leave the weights
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
    else:
        scalars.read()
    optimizer.step()
    return scalars


def skips_by_itself(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether the optimiser is told on the device to leave these weights alone; not where they are split."""
    return parameters[0].device.type == "cuda" and not any(isinstance(parameter, DTensor) for parameter in parameters)


def _send(names: Sequence[str], values: torch.Tensor, refusal: Callable[[dict[str, float]], str]) -> UpdateScalars:
    """Copy (n,) values to the CPU without waiting for it."""
    arriving = values.to("cpu", non_blocking=True)
    event = None
    if values.device.type == "cuda":
        event = torch.cuda.Event()
        event.record()
    return UpdateScalars(names, arriving, event, refusal)


def _to_device(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


@contextmanager
def _lack_of_memory_explained(state: TrainingState, num_samples: int, step: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        raise ValueError(
            f"step {step} of {state.task.stage} ran out of memory with {num_samples} samples in this process, "
            f"{state.config.micro_batch_size or num_samples} at once: give a smaller micro_batch_size"
        ) from error


def _not_finite(state: TrainingState, gradient: Accumulated, values: dict[str, float]) -> str:
    """The sentence that names the values at fault and the clips of the micro-batches whose loss is not finite."""
    at_fault = [clip for clips, loss in gradient.micro_batches if not torch.isfinite(loss) for clip in clips]
    is_elsewhere = not at_fault and not math.isfinite(values[f"{gradient.player}/loss"])
    named = at_fault or [clip for clips, _ in gradient.micro_batches for clip in clips]
    more = f" and {len(named) - NUM_CLIPS_NAMED} more" if len(named) > NUM_CLIPS_NAMED else ""
    listed = ", ".join(str(clip) for clip in named[:NUM_CLIPS_NAMED]) + more
    shown = ", ".join(f"{name} = {value:g}" for name, value in values.items() if not math.isfinite(value))
    return (
        f"{state.task.stage} stopped at step {gradient.step} before updating {gradient.player!r}, because {shown} "
        f"(clips: {'those that another process names' if is_elsewhere else listed}): look at these clips, or give a "
        f"lower lr{', or precision fp32' if state.config.precision != 'fp32' else ''}, and start again from the last "
        "checkpoint"
    )
