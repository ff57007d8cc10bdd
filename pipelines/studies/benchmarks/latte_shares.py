"""What each change to the published Latte block brings in a training step on a CPU.

One clip, bf16 autocast. Every row is the training step of our block with one change taken back; the rows take turns,
and a figure is the median over the rounds of the row's time over the default's of the same round. The published block
as a whole, and diffusers' model, stand beside them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

import latte.blocks
from latte.blocks import Attention, ModulatedNorm, Modulation
from latte.config import LatteConfig
from pipelines.studies.benchmarks.latte_measurement import LatteJob, LatteTraining

DEFAULT = "default"
STEPS = 2  # per row and round, of which the faster counts


def sdpa() -> AbstractContextManager:
    """Attention through scaled_dot_product_attention for every length."""
    return patch.object(latte.blocks, "MAX_PLAIN_TOKENS", 0)


def unfused_norm() -> AbstractContextManager:
    """LayerNorm, then scale and shift as an operation of its own."""

    def forward(self: ModulatedNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, self.norm(x), 1 + scale)

    return patch.object(ModulatedNorm, "forward", forward)


@contextmanager
def modulation_per_row(frames: int, patches: int) -> Iterator[None]:
    """The six vectors of a block computed for every frame (space) or patch (time) of a clip, as published."""
    rows, attend = [frames], Attention.forward

    def attention(self: Attention, x: Tensor, rotation: Tensor | None) -> Tensor:
        rows[0] = patches if self.axis == "space" else frames  # of the next block
        return attend(self, x, rotation)

    def forward(self: Modulation, condition: Tensor, num_frames: list[int]) -> tuple[Tensor, ...]:
        repeated = condition.expand(-1, rows[0], -1).contiguous()
        with torch.autocast("cpu", enabled=False):
            vectors = self.linear(torch.nn.functional.silu(repeated)).mean(dim=1)
        return tuple(vectors.reshape(len(vectors), self.num, 1, 1, -1).unbind(dim=1))

    with patch.object(Modulation, "forward", forward), patch.object(Attention, "forward", attention):
        yield


def tensor_by_tensor(job: LatteJob) -> Callable[[], None]:
    """The training step with an optimiser and averages that go through the tensors one by one."""
    training = LatteTraining(job)
    state = training.state
    state.optimizers["latte"] = torch.optim.AdamW(
        state.task.parameter_groups("latte"), lr=training.state.config.lr, foreach=False
    )
    averages = [parameter.detach().clone() for parameter in training.predictor.parameters()]

    def step() -> None:
        training.update()
        for average, weight in zip(averages, training.predictor.parameters(), strict=True):
            average.lerp_(weight.detach(), 0.001)

    return step


def measure_shares(job: LatteJob, rounds: int) -> dict[str, dict[str, float]]:
    """{what is taken back: {"seconds", "times_default"}}; `job` is our default."""
    _, frames, height, width = job.latents
    patches = height * width // LatteConfig(size=job.size).dimensions()[3] ** 2
    default = LatteTraining(job).step
    rows: dict[str, tuple[Callable[[], None], Callable[[], AbstractContextManager]]] = {
        DEFAULT: (default, nullcontext),
        "attention through SDPA": (default, sdpa),
        "norm and modulation apart": (default, unfused_norm),
        "modulation per frame and patch": (default, lambda: modulation_per_row(frames, patches)),
        "optimiser and averages tensor by tensor": (tensor_by_tensor(job), nullcontext),
        "the published block": (LatteTraining(replace(job, kind="published_block")).step, nullcontext),
        "diffusers' model without caption": (
            LatteTraining(replace(job, kind="diffusers_latte_no_caption")).step,
            nullcontext,
        ),
        "diffusers' model": (LatteTraining(replace(job, kind="diffusers_latte")).step, nullcontext),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, (step, change) in rows.items():
            with change():
                fastest = min(_seconds(step) for _ in range(STEPS))
            if number:  # the first round warms up
                seconds[name].append(fastest)
    ratios = {name: [a / b for a, b in zip(times, seconds[DEFAULT], strict=True)] for name, times in seconds.items()}
    return {name: {"seconds": min(seconds[name]), "times_default": median(ratios[name])} for name in rows}


def _seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
