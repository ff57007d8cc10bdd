"""Weights split over two processes (FSDP2): the same training, the same files, resumable by any number of processes."""

from pathlib import Path

import pytest
import torch
from faults.children import end, said, start
from faults.trials import log_of, tensors_of
from toy_task import Regressor

from pipelines.run.checkpoint import load_latest
from pipelines.run.sharding import local, split_like, whole

OPTIONS = "toy: {loop: {lr: 0.01, log_every: 1, checkpoint_every: 5, validate_every: 4, ema_snapshot_every: 4}}\n"


def train(root: Path, name: str, steps: int, world: int, split: bool) -> None:
    (root / "toy.yaml").write_text(OPTIONS)
    arguments = [str(root / "toy.yaml"), f"run.root={root}", f"run.name={name}", "run.device=cpu"]
    processes = start("train_toy", [*arguments, f"toy.loop.steps={steps}", f"toy.split={split}"], root / "log", world)
    assert end(processes) == [0] * world, said(root / "log")


def test_split_training_equals_whole_training_and_changes_its_number_of_processes(tmp_path: Path) -> None:
    """Layers of 5 and 1 outputs over two processes: uneven parts, and one that is empty."""
    train(tmp_path, "whole", 12, 1, split=False)
    train(tmp_path, "split", 6, 2, split=True)
    assert load_latest(tmp_path / "split" / "train_toy" / "checkpoints").state["processes"] == 2, "they never met"
    train(tmp_path, "split", 9, 1, split=False)
    train(tmp_path, "split", 12, 2, split=True)
    one, two = (tmp_path / name / "train_toy" for name in ("whole", "split"))
    ours, theirs = tensors_of(two), tensors_of(one)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if not name.startswith("extra"):  # the toy's running error is each process's own
            torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    logs = [[line for line in log_of(folder) if "lr" in line] for folder in (two, one)]  # it scored itself more often
    for line, other in zip(*logs, strict=True):
        assert line == pytest.approx(other, rel=1e-3)
    for published in ("last", "best"):
        weights, expected = (Regressor.from_pretrained(folder / published).state_dict() for folder in (two, one))
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
    files = [sorted(str(file.relative_to(folder)) for file in (folder / "ema").rglob("*")) for folder in (one, two)]
    assert files[0] == files[1] and len(files[0]) == 3 + 3 * 3


def test_whole_tensors_pass_through() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert local(tensor) is tensor and whole(tensor) is tensor and split_like(tensor, tensor) is tensor
