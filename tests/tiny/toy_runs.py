"""Runs of the toy task, and what they leave: compared by the tests of the run room."""

from pathlib import Path

import torch
from toy_task import ToyConfig, ToyExperiment

from pipelines.run.checkpoint import load_latest
from pipelines.run.ema_snapshots import SnapshotLoopConfig
from pipelines.run.folder import read_jsonl
from pipelines.run.run_config import RunConfig

LOOP = SnapshotLoopConfig(steps=12, lr=0.01, log_every=1, checkpoint_every=5, validate_every=4)
TIMES = ("steps_per_second",)


def experiment(root: Path, name: str = "one", loop: SnapshotLoopConfig = LOOP, **toy: int) -> ToyExperiment:
    run = RunConfig(name=name, root=str(root), device="cpu", seed=3)
    return ToyExperiment(ToyConfig(loop=loop, **toy), run)


def result(root: Path, name: str = "one") -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Every tensor of the newest checkpoint, and the log without its times."""
    found = load_latest(root / name / "train_toy" / "checkpoints")
    assert found is not None
    tensors = {f"{group}/{name}": tensor for group, named in found.tensors.items() for name, tensor in named.items()}
    lines = read_jsonl(root / name / "train_toy" / "metrics.jsonl")
    return tensors, [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
