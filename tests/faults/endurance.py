"""Without a network, and for a long time: F17 and F21."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

from faults import children
from faults.children import NANO, end
from faults.files import video
from faults.saving import CLONE_NEWUSER
from faults.training import toy
from faults.trials import Outcome, fault

from pipelines.data.frame_reader import read_frames
from pipelines.data.video_file import write_video

ROOT = Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000  # linux/sched.h
LIMIT_MB = 50
WARM_UP = 100  # cycles or steps before the memory is measured first


@fault("F17", "no network: the whole chain at nano size", "ends as always", 1)
def no_network(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    command = [sys.executable, str(ROOT / "pipelines" / "chain.py"), str(NANO), f"run.root={folder}"]
    search = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def leave_network() -> None:
        flags = CLONE_NEWNET | (CLONE_NEWUSER if os.getuid() else 0)
        if ctypes.CDLL(None, use_errno=True).unshare(flags):
            os._exit(3)

    ended = subprocess.run(
        command, env=os.environ | search, capture_output=True, text=True, check=False, preexec_fn=leave_network
    )
    if ended.returncode == 3:
        return Outcome(not_run="this user may not leave the network")
    page = folder / "nano" / "report" / "index.html"
    outcome.count(ended.returncode == 0 and page.exists(), ended.stderr[-1500:])
    return outcome


@fault("F21", "1000 times a video opened and read; 2000 training steps", "< 50 MB more memory each", 2)
def for_a_long_time(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    context = children.multiprocessing.get_context("forkserver")
    for name, work in (("reading", read_often), ("training", train_long))[:trials]:
        result = folder / f"{name}.json"
        process = context.Process(target=work, args=(folder, result))
        process.start()
        with outcome.trial(name):
            assert end([process]) == [0], f"{name} failed"
            grown = json.loads(result.read_text())
            outcome.figures[f"{name}, MB"] = grown
            assert grown < LIMIT_MB, f"{name}: {grown} MB more"
    return outcome


def resident_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def read_often(folder: Path, result: Path) -> None:
    """Both readers, turn by turn."""
    write_video(folder / "a.mp4", video(0), 25)
    before = 0.0
    for cycle in range(1000 + WARM_UP):
        if cycle == WARM_UP:
            before = resident_mb()
        read_frames(folder / "a.mp4", [3, 9, 27], ("decord", "av")[cycle % 2])
    result.write_text(json.dumps(round(resident_mb() - before, 1)))


def train_long(folder: Path, result: Path) -> None:
    """The toy, by the training loop itself, with checkpoints on the way."""
    import torch
    import toy_task

    from pipelines.run.config import load_config

    torch.set_num_threads(1)
    os.environ["PYTHONUNBUFFERED"] = "1"
    sys.stderr = (folder / "training.log").open("w")
    config = load_config(toy_task.ToyExperiment, toy(folder, "long", WARM_UP), NANO)
    toy_task.run_toy(config)
    before = resident_mb()
    config = load_config(toy_task.ToyExperiment, toy(folder, "long", 2000 + WARM_UP, 100), NANO)
    toy_task.run_toy(config)
    result.write_text(json.dumps(round(resident_mb() - before, 1)))
