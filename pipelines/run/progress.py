"""What a training run tells: a live line or a line a minute with the one score that matters; all numbers are in
metrics.jsonl and TensorBoard.

Lines of metrics.jsonl: {"step", "lr", "steps_per_second", "<player>/loss", "<player>/grad_norm", "<player>/<term>"},
means since the line before; and {"step", "validation/<score>"}.
"""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pipelines.run.folder import StageFolder
from pipelines.run.live_line import SECONDS_BETWEEN_LINES
from pipelines.run.update import UpdateScalars


class Progress:
    """Collects the scalars of each step and reports their means; silent in all processes but the main one."""

    def __init__(
        self, folder: StageFolder, stage: str, first_step: int, num_steps: int, is_main: bool, score: str = "loss"
    ) -> None:
        """score: the one that a person is shown, by its name after the player's; "loss" where no player has it."""
        self._score, self._line_printed = score, -float("inf")
        self._folder, self._stage, self._num_steps, self._is_main = folder, stage, num_steps, is_main
        self._first_step = first_step
        self._sums: dict[str, tuple[float, int]] = {}
        self._arriving: list[UpdateScalars] = []
        self._step_reported, self._time_reported = first_step, time.monotonic()
        self._bar: Any = None
        self._writer: Any = None

    def __enter__(self) -> "Progress":
        if self._is_main:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(self._folder.path / "tensorboard"), purge_step=self._first_step + 1)
            if sys.stderr.isatty():
                self._bar = tqdm(
                    total=self._num_steps, initial=self._first_step, desc=self._stage, unit="step", dynamic_ncols=True
                )
            self._time_reported = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def add(self, scalars: UpdateScalars) -> None:
        """Take the scalars of one update into the means of the next report, as soon as `read` looks at them."""
        self._arriving.append(scalars)

    def read(self, but_last: int = 0) -> None:
        """Look at all scalars but the `but_last` newest. ValueError for one that is not finite: see `UpdateScalars`."""
        while len(self._arriving) > but_last:
            for name, value in self._arriving.pop(0).read().items():
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + value, count + 1)

    def sums(self) -> dict[str, tuple[float, int]]:
        """The unreported sums and counts: part of a checkpoint, so that a resumed run logs the same means."""
        self.read()
        return dict(self._sums)

    def restore_sums(self, sums: Mapping[str, tuple[float, int]]) -> None:
        """Take back what `sums` gave."""
        self._sums = {name: (total, int(count)) for name, (total, count) in sums.items()}

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update(1)

    def report(self, step: int, lr: float) -> None:
        """Write the means since the last report; `step` counts finished steps."""
        self.read()
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        now = time.monotonic()
        rate = (step - self._step_reported) / max(now - self._time_reported, 1e-9)
        self._step_reported, self._time_reported = step, now
        self._write(step, {"lr": lr, "steps_per_second": round(rate, 4), **means})
        if self._bar is not None:
            self._bar.set_postfix_str(self._shown(means))
        elif self._is_main and (now - self._line_printed >= SECONDS_BETWEEN_LINES or step == self._num_steps):
            self._line_printed = now
            left = tqdm.format_interval((self._num_steps - step) / max(rate, 1e-9))
            self.say(f"step {step} of {self._num_steps}  {self._shown(means)}  {rate:.3g}/s  {left} left")

    def report_validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the scores of a validation."""
        if scores:
            self._write(step, {f"validation/{name}": float(value) for name, value in scores.items()})
            self.say(f"step {step} of {self._num_steps}  held-out {self._shown(scores)}")

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one; the main process only."""
        if self._is_main:
            tqdm.write(f"{self._stage}: {text}", file=sys.stderr)
            sys.stderr.flush()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._is_main:
            self._folder.log({"step": step, **values})
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def _shown(self, values: Mapping[str, float]) -> str:
        by_end = {name.rpartition("/")[2]: name for name in reversed(list(values))}  # the first player's
        end = self._score if self._score in by_end else "loss" if "loss" in by_end else next(iter(by_end))
        return f"{end} {values[by_end[end]]:.4g}"
