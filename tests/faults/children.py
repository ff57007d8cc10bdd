"""Processes of the fault suite: real stages at nano size, forked from a server that has imported everything once."""

import atexit
import importlib
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import diffusers.training_utils  # noqa: F401 - imported here, once, so that no child needs to
import torch
import torch.utils.tensorboard  # noqa: F401
from faults.trials import LONGEST_WAIT_SECONDS, Hang

from pipelines import chain  # noqa: F401
from pipelines.inputs.experiment import Experiment
from pipelines.run.stage import main

NANO = Path(__file__).resolve().parents[1] / "nano.yaml"
SHAPES = "{resolution: 32, num_frames: 20, train_per_class: 1, validation_per_class: 1}"
STAGES = ("prepare_data", "train_motion", "train_vae", "cache_latents")
QUIET = ("validate_every=0", "preview_every=0")
NOT_COPIED = (".lock", "tensorboard")
TRAINED = {"train_motion": "motion", "train_vae": "vae", "train_latte": "latte"}


def start(
    stage: str, arguments: Sequence[str], log: Path, world: int = 1, sabotage: str = "", only_rank: int = -1
) -> list[ForkServerProcess]:
    """`world` processes of one stage; `sabotage` names a function of sabotage.py, for all of them or for one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.children", "faults.sabotage", "toy_task"])
    port = free_port() if world > 1 else 0
    processes = []
    for rank in range(world):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        environment = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if world > 1 else {}
        own = sabotage if only_rank in (-1, rank) else ""
        variables = {name: str(value) for name, value in environment.items()}
        process = context.Process(target=work, args=(stage, list(arguments), f"{log}.{rank}", variables, own))
        process.start()
        processes.append(process)
    return processes


def work(stage: str, arguments: list[str], log: str, environment: dict[str, str], sabotage: str) -> None:
    """What one process does: the stage as its command does it, with its exit code."""
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= environment
    torch.set_num_threads(1)
    if sabotage:
        getattr(importlib.import_module("faults.sabotage"), sabotage)()
    sys.argv = [f"pipelines/{stage}.py", *arguments]
    if stage == "train_toy":
        import toy_task

        main(stage, toy_task.run_toy, toy_task.ToyExperiment, ("toy", "run"), arguments=arguments)
    main(stage, importlib.import_module(f"pipelines.{stage}").run, Experiment, ("run",), arguments=arguments)


def end(processes: Sequence[ForkServerProcess], seconds: float = LONGEST_WAIT_SECONDS) -> list[int | None]:
    """Exit codes, negative for signals; Hang where one does not end."""
    for process in processes:
        process.join(seconds)
        if process.is_alive():
            for other in processes:
                other.kill()
            raise Hang(f"a process did not end within {seconds} s")
    return [process.exitcode for process in processes]


def run(stage: str, arguments: Sequence[str], log: Path, world: int = 1) -> None:
    """A stage from begin to end; AssertionError with what it said where it fails."""
    codes = end(start(stage, arguments, log, world))
    assert codes == [0] * world, f"{stage} ended with {codes}: {said(log)}"


def said(log: Path) -> str:
    """The last lines that the processes of a log wrote."""
    texts = [path.read_text(errors="replace") for path in sorted(log.parent.glob(f"{log.name}.*"))]
    return " | ".join(" / ".join(text.strip().splitlines()[-6:]) for text in texts)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Runs:
    """Runs in one folder that share data, motion module, autoencoder and cache."""

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        for stage in stages:
            source = made_once() / "base" / stage
            shutil.copytree(source, folder / "base" / stage, ignore=shutil.ignore_patterns(*NOT_COPIED))

    def arguments(self, name: str, *options: str) -> list[str]:
        """The command line of a run."""
        given = [str(NANO), f"run.root={self.folder}", f"run.name={name}", f"data.shapes={SHAPES}"]
        quiet = [f"{section}.loop.{option}" for section in TRAINED.values() for option in QUIET]
        return [*given, "vae.validation_clips=1", "latte.validation_clips=2", *quiet, *options]

    def new(self, name: str, *options: str) -> list[str]:
        """The command line of another run that has what stands in `base`."""
        for stage in STAGES:
            source, target = self.folder / "base" / stage, self.folder / name / stage
            if source.exists() and not target.exists():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return self.arguments(name, *options)

    def fresh(self, name: str, stage: str, *options: str) -> list[str]:
        """As `new`, without what stands there of `stage`."""
        arguments = self.new(name, *options)
        shutil.rmtree(self.folder / name / stage, ignore_errors=True)
        return arguments

    def path(self, name: str, stage: str) -> Path:
        """The folder of a stage of a run."""
        return self.folder / name / stage


@cache
def made_once() -> Path:
    """A folder with the run `base`, through all of STAGES; it goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="faults-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    runs = Runs(folder, ())
    for stage in STAGES:
        run(stage, runs.arguments("base"), runs.log)
    return folder
