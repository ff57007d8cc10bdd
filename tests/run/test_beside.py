"""More processes of one command: they meet, share the work, and none outlives or hides the failure of another."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from pipelines.run.run_config import RunConfig
from pipelines.run.ranks import average, connect
from pipelines.run.stage import main
import torch

@dataclass(frozen=True)
class Settings:
    run: RunConfig = field(default_factory=RunConfig)
    fail: str = ""

def run(config):
    state = connect(config.run.device)
    folder = Path(config.run.root)
    rank = state.process_index
    mean = average(torch.tensor([float(rank)])).item()
    (folder / f"rank{rank}").write_text(f"{state.num_processes} {mean} {torch.get_num_threads()} {os.getpid()}")
    average(torch.tensor([0.0]))  # both have written
    if config.fail == "first" and rank == 0:
        raise ValueError("the first one cannot go on")
    if config.fail == "second" and rank == 1:
        raise ValueError("the second one cannot go on")
    if config.fail and rank == 1:
        time.sleep(600)
    if config.fail == "second":
        average(torch.tensor([1.0]))
    print("done")

main("toy", run, Settings, ("run",))
"""


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script above with two processes on CPUs."""
    script = folder / "toy.py"
    script.write_text(SCRIPT)
    (folder / "toy.yaml").write_text("{}\n")
    command = [sys.executable, str(script), str(folder / "toy.yaml"), f"run.root={folder}", "run.device=cpu", *words]
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")}
    environment = clean | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


needs_two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: one process")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_two_cores
def test_two_processes_share_the_cores_and_one_speaks(tmp_path: Path) -> None:
    done = call(tmp_path, "run.cpu_processes=2")
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
    for rank in range(2):
        count, mean, threads, _ = (tmp_path / f"rank{rank}").read_text().split()
        assert (count, mean, threads) == ("2", "0.5", str(max(1, (os.cpu_count() or 1) // 2)))


def test_one_process_is_the_default_and_a_launcher_is_left_alone(tmp_path: Path) -> None:
    assert call(tmp_path).returncode == 0
    assert (tmp_path / "rank0").read_text().startswith("1 0.0 ") and not (tmp_path / "rank1").exists()
    refused = call(tmp_path, "run.cpu_processes=0")
    assert refused.returncode == 2 and "run.cpu_processes is 0" in refused.stderr


@needs_two_cores
def test_a_failure_of_the_first_ends_the_other_and_is_said_once(tmp_path: Path) -> None:
    failed = call(tmp_path, "run.cpu_processes=2", "fail=first")
    assert failed.returncode == 2 and failed.stderr.count("cannot go on") == 1
    assert not is_running(int((tmp_path / "rank1").read_text().split()[3]))


@needs_two_cores
def test_a_failure_of_the_other_ends_the_first_with_its_words(tmp_path: Path) -> None:
    started = time.monotonic()
    failed = call(tmp_path, "run.cpu_processes=2", "fail=second")
    assert failed.returncode != 0 and "the second one cannot go on" in failed.stderr
    assert time.monotonic() - started < 60
