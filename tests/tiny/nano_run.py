"""The whole chain at nano size, as a command: what test_chain.py looks at, and what the pages' examples run on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.inputs.experiment import Experiment
from pipelines.run.config import load_config

ROOT = Path(__file__).resolve().parents[2]
NANO = Path(__file__).parents[1] / "nano.yaml"
LONGEST_WAIT_SECONDS = 240


def nano(root: Path, *arguments: str) -> Experiment:
    return load_config(Experiment, [str(NANO), f"run.root={root}", *arguments], NANO)


def command(root: Path) -> list[str]:
    return ["pipelines/chain.py", str(NANO), f"run.root={root}"]


def make_run(root: Path) -> None:
    """A finished run in root/nano, killed once while the autoencoder was trained, then started again by the same
    command; root/first.log and root/second.log hold what the two printed."""
    first, second = root / "first.log", root / "second.log"
    process = _start(root, first)
    _wait_for(root / "nano" / "train_vae" / "checkpoints" / "step-00000002", process, first)
    process.kill()
    assert process.wait() == -signal.SIGKILL, first.read_text()
    assert not (root / "nano" / "train_vae" / "done.json").exists(), "killed too late to test anything"
    assert _start(root, second).wait() == 0, second.read_text()


def _start(root: Path, log: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        return subprocess.Popen([sys.executable, *command(root)], cwd=ROOT, stdout=file, stderr=file, env=environment)


def _wait_for(path: Path, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not path.exists():
        assert process.poll() is None, (
            f"the chain ended with {process.returncode} before there was {path}:\n{log.read_text()}"
        )
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.005)
