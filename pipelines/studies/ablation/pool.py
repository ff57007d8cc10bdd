"""The runs of an ablation as child processes, some at a time; Ctrl-C lets each finish its step and save."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from pipelines.run.config import to_yaml
from pipelines.run.folder import write_text
from pipelines.run.interruption import Interruption
from pipelines.run.stage import select
from pipelines.studies.ablation.plan import SECTIONS, Job
from pipelines.studies.ablation.worker import work

SECONDS_BETWEEN_LOOKS = 0.1
# What a training and its scores import only when they come to it; here it is imported once for all runs.
IMPORTED_LATE = ("diffusers.training_utils", "torch.utils.tensorboard")


def run_jobs(jobs: Sequence[Job], processes: int, ended: Callable[[dict[str, str]], None]) -> dict[str, str]:
    """Run all jobs, in order where nothing has to wait; returns {name: reason} of those that failed.

    ended: called after each job, with those that failed so far. A failure stops only the jobs that need it. Exits with
    130 / 143 after Ctrl-C / SIGTERM, when the children have saved; the children of a killed parent end at once.
    """
    waiting, running = list(jobs), dict[ForkServerProcess, Job]()
    failed: dict[str, str] = {}
    is_stopping = False
    try:
        with Interruption() as interruption:
            while waiting or running:
                if interruption.signal_number and not is_stopping:
                    is_stopping = True
                    waiting.clear()
                    for child in running:
                        child.terminate()
                for job in [job for job in waiting if job.needs in failed]:
                    waiting.remove(job)
                    failed[job.name] = f"needs {job.needs}, which failed"
                unfinished = {job.name for job in (*waiting, *running.values())}
                ready = [job for job in waiting if job.needs not in unfinished]
                for job in ready[: processes - len(running)]:
                    waiting.remove(job)
                    running[_start(job)] = job
                    say(f"{job.name} starts")
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for child in [child for child in running if child.exitcode is not None]:
                    job = running.pop(child)
                    if child.exitcode and not is_stopping:
                        failed[job.name] = _last_line(job.path / "log.txt") or f"ended with {child.exitcode}"
                    outcome = failed.get(job.name, "is stopped" if child.exitcode else "is done")
                    say(f"{job.name} {outcome}; {len(waiting) + len(running)} of {len(jobs)} runs left")
                    ended(failed)
            if is_stopping:
                raise SystemExit(128 + interruption.signal_number)
    finally:
        for child in running:
            child.kill()
    return failed


def say(text: str) -> None:
    """One line of progress."""
    print(f"ablate: {text}", file=sys.stderr, flush=True)


def _start(job: Job) -> ForkServerProcess:
    """The children are forked from a process that did nothing but import: they start at once, with clean threads."""
    job.path.mkdir(parents=True, exist_ok=True)
    experiment = job.path / "experiment.yaml"
    write_text(experiment, to_yaml(select(job.config, SECTIONS)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__, *IMPORTED_LATE])
    child = context.Process(target=work, args=(job.kind, str(experiment), str(job.path / "log.txt")))
    child.start()
    return child


def _last_line(path: Path) -> str:
    """The last line of a log; "" where there is none, as of a process that was ended before it began."""
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
