"""The frame of the fault suite: a fault is a function that runs trials and says how many ended as they must."""

import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.run.checkpoint import load_latest
from pipelines.run.folder import read_jsonl

LONGEST_WAIT_SECONDS = 900  # beyond this a process hangs, also on a machine that does other things
POLL_SECONDS = 0.005


class Hang(AssertionError):
    """A process did not come to an end, or something that must come did not."""


@dataclass
class Outcome:
    """What the trials of one fault came to."""

    trials: int = 0
    passed: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    not_run: str = ""  # why this machine cannot run it

    def count(self, passed: bool, why: str = "") -> None:
        """Note one trial."""
        self.trials += 1
        self.passed += passed
        if not passed:
            self.failures.append(why[-2000:])

    @contextmanager
    def trial(self, name: str = "") -> Iterator[None]:
        """Note one trial that fails by an AssertionError."""
        try:
            yield
        except AssertionError as error:
            self.count(False, f"{name}: {error}")
        else:
            self.count(True)


@dataclass(frozen=True)
class Fault:
    """One line of the table."""

    name: str
    what: str
    target: str
    trials: int  # of the whole suite
    quick: int  # of the part that belongs to the tests; 0 = not in there
    run: Callable[[Path, int], Outcome]


FAULTS: dict[str, Fault] = {}


def fault(name: str, what: str, target: str, trials: int, quick: int = 0) -> Callable:
    """Enter a function(folder, number of trials) -> Outcome into the table."""

    def enter(run: Callable[[Path, int], Outcome]) -> Callable[[Path, int], Outcome]:
        FAULTS[name] = Fault(name, what, target, trials, quick, run)
        return run

    return enter


def run_fault(name: str, folder: Path, trials: int) -> dict[str, Any]:
    """The result row of one fault."""
    entry, started = FAULTS[name], time.monotonic()
    random.seed(f"{name} {trials}")
    folder.mkdir(parents=True)
    try:
        outcome = entry.run(folder, trials)
    except Exception:  # what was to be injected into does not even run: the line of the table says so
        outcome = Outcome()
        outcome.count(False, traceback.format_exc())
    row = {"fault": name, "what": entry.what, "target": entry.target, **asdict(outcome)}
    return row | {"seconds": round(time.monotonic() - started, 1)}


def wait_until(condition: Callable[[], Any], what: str, alive: Callable[[], bool] = lambda: True) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not (value := condition()):
        if not alive():
            raise AssertionError(f"it ended before {what}")
        if time.monotonic() > deadline:
            raise Hang(f"waited {LONGEST_WAIT_SECONDS} s for {what}")
        time.sleep(POLL_SECONDS)
    return value


def wait_for_step(reached: Callable[[Path], int], stage: Path, step: int, alive: Callable[[], bool]) -> None:
    """Until `reached(stage)`, such as `last_logged`, is at least `step`."""
    wait_until(lambda: reached(stage) >= step, f"step {step}", alive)


def newest_step(stage_folder: Path) -> int:
    """Step of the newest checkpoint, by name alone; 0 without one."""
    return max((int(path.name[5:]) for path in (stage_folder / "checkpoints").glob("step-*")), default=0)


def last_logged(stage_folder: Path) -> int:
    """The last step in the log; 0 without one."""
    return max((line["step"] for line in read_jsonl(stage_folder / "metrics.jsonl")), default=0)


def tensors_of(stage_folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest intact checkpoint."""
    found = load_latest(stage_folder / "checkpoints")
    assert found is not None, f"no checkpoint in {stage_folder}"
    return {f"{group}/{name}": tensor for group, named in found.tensors.items() for name, tensor in named.items()}


def log_of(stage_folder: Path) -> list[dict[str, float]]:
    """The log without its times."""
    lines = read_jsonl(stage_folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def require_equal(one: Path, other: Path) -> None:
    """Two stage folders hold the same weights, moments and losses, bit for bit."""
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys(), f"other tensors: {sorted(first.keys() ^ second.keys())}"
    different = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, such as {different[0]}"
    lines, others = ([line for line in log_of(folder) if "lr" in line] for folder in (one, other))
    assert lines == others, "the logged losses differ"


def largest_difference(one: Path, other: Path) -> float:
    """Largest absolute difference of any trained weight (not of moments and running averages)."""
    first, second = tensors_of(one), tensors_of(other)
    weights = [name for name in first if ".optimizer/" not in name and first[name].numel()]
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in weights)


def largest_loss_difference(one: Path, other: Path) -> float:
    """Largest absolute difference of any logged loss."""
    pairs = zip(log_of(one), log_of(other), strict=True)
    return max(abs(a[name] - b[name]) for a, b in pairs for name in a if name.endswith("/loss"))


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process of ours."""
    os.kill(pid, number)
