"""What each change to the published Latte block brings in a training step on a CPU: docs/results/latte_shares.json.

python pipelines/studies/latte_shares.py [rounds]

Latte-S/2 with latents of 16 x 5 x 32 x 32, one clip, bf16 autocast. Every row is the training step of our block with
one change taken back; the rows take turns, and a figure is the median over the rounds of the row's time over the
default's of the same round. The published block as a whole stands beside them.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

import latte.blocks
from latte.blocks import Attention, ModulatedNorm, Modulation
from pipelines.run.folder import git_commit, write_json
from pipelines.run.random_keys import Draws
from pipelines.run.task import LoopConfig
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from pipelines.studies.benchmarks.latte_measurement import LatteJob, Predictor, SpeedTask, make_batch

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "latte_shares.json"
JOB = LatteJob("latte", "S/2", (16, 5, 32, 32), 1, "cpu", 0, 1, 1, 0, "bf16")
FRAMES, PATCHES = 5, 256
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
def modulation_per_row() -> Iterator[None]:
    """The six vectors of a block computed for every frame (space) or patch (time) of a clip, as published."""
    rows, attend = [FRAMES], Attention.forward

    def attention(self: Attention, x: Tensor, rotation: Tensor | None) -> Tensor:
        rows[0] = PATCHES if self.axis == "space" else FRAMES  # of the next block
        return attend(self, x, rotation)

    def forward(self: Modulation, condition: Tensor, num_frames: list[int]) -> tuple[Tensor, ...]:
        repeated = condition.expand(-1, rows[0], -1).contiguous()
        with torch.autocast("cpu", enabled=False):
            vectors = self.linear(torch.nn.functional.silu(repeated)).mean(dim=1)
        return tuple(vectors.reshape(len(vectors), self.num, 1, 1, -1).unbind(dim=1))

    with patch.object(Modulation, "forward", forward), patch.object(Attention, "forward", attention):
        yield


def step_of(kind: str, is_fused: bool = True) -> Callable[[], None]:
    """A training step of a model of its own, as the loop makes it."""
    torch.manual_seed(0)
    job = LatteJob(**{**vars(JOB), "kind": kind})
    loop = LoopConfig(steps=1, global_batch_size=1, precision="bf16")
    device = torch.device("cpu")
    state = TrainingState(SpeedTask(Predictor(job)), loop, Path(tempfile.gettempdir()), device)  # type: ignore[arg-type]
    if not is_fused:
        groups = state.task.parameter_groups("latte")
        state.optimizers["latte"] = torch.optim.AdamW(groups, lr=loop.lr, foreach=False)
    batch = make_batch(job, device)

    def step() -> None:
        draws = Draws(0, SpeedTask.stage, 0, batch["index"])
        take_step(state, accumulate_gradient(state, "latte", batch, draws, 0))
        if is_fused:
            state.average(1, updated=True)
        else:
            for average, weight in zip(state.ema.averages, state.ema.parameters, strict=True):
                average.lerp_(weight.detach(), 0.001)

    return step


def main(rounds: int) -> None:
    """Measure in turns and write the shares."""
    default = step_of("latte")
    rows: dict[str, tuple[Callable[[], None], Callable[[], AbstractContextManager]]] = {
        "default": (default, nullcontext),
        "attention through SDPA": (default, sdpa),
        "norm and modulation apart": (default, unfused_norm),
        "modulation per frame and patch": (default, modulation_per_row),
        "optimiser and averages tensor by tensor": (step_of("latte", is_fused=False), nullcontext),
        "the published block": (step_of("published_block"), nullcontext),
        "diffusers' model without caption": (step_of("diffusers_latte_no_caption"), nullcontext),
        "diffusers' model": (step_of("diffusers_latte"), nullcontext),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, (step, change) in rows.items():
            times = []
            with change():
                for _ in range(STEPS):
                    started = time.perf_counter()
                    step()
                    times.append(time.perf_counter() - started)
            if number:  # the first round warms up
                seconds[name].append(min(times))
    content = {
        "rows": {
            name: {
                "seconds": round(min(times), 4),
                "times_default": round(median(a / b for a, b in zip(times, seconds["default"], strict=True)), 3),
            }
            for name, times in seconds.items()
        },
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "git_commit": git_commit(),
    }
    write_json(RESULTS, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 7)
