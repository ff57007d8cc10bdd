"""What is on the disk is what was written: manifests of checkpoints and models, and what a stage says of a bad disk."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_task import Regressor, ToyConfig, ToyExperiment, run_toy

from pipelines.inputs.models import resolve_model
from pipelines.run.checkpoint import load_latest, load_step, save_checkpoint
from pipelines.run.ema_snapshots import SnapshotLoopConfig, averaged_weights
from pipelines.run.folder import StageFolder, write_json
from pipelines.run.manifest import MANIFEST, find_fault, listed_files, write_manifest
from pipelines.run.run_config import RunConfig
from pipelines.run.stage import main
from pipelines.run.training_state import bytes_of_checkpoint, bytes_on_disk

LOOP = SnapshotLoopConfig(steps=2, lr=0.01, ema_snapshot_every=1)


def experiment(root: Path, **loop: float) -> ToyExperiment:
    return ToyExperiment(ToyConfig(loop=replace(LOOP, **loop)), RunConfig(name="one", root=str(root), device="cpu"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run_toy(experiment(tmp_path))
    return tmp_path / "one" / "train_toy"


def test_a_manifest_lists_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    write_manifest(tmp_path)
    assert listed_files(tmp_path) == ["a"] and find_fault(tmp_path) is None
    assert find_fault(tmp_path, required="b") == "b is not listed"
    (tmp_path / "a").write_text("2")
    assert find_fault(tmp_path) == "a is not what was written"
    (tmp_path / "a").unlink()
    assert find_fault(tmp_path) == "a is missing"
    (tmp_path / MANIFEST).write_text("[]")
    assert "cannot be read" in find_fault(tmp_path)


def test_a_checkpoint_is_what_its_manifest_lists_and_nothing_else(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, {"net": {"weight": torch.ones(2)}}, {}, keep=1)
    (path / "more.safetensors").write_bytes((path / "net.safetensors").read_bytes())
    (path / "state.pkl").write_bytes(b"anything")
    assert load_latest(tmp_path).tensors.keys() == {"net"}
    assert load_step(tmp_path, 3).step == 3
    flip(path / "net.safetensors", -1)
    with pytest.raises(ValueError, match=r"net.safetensors .*same file system"):
        load_step(tmp_path, 3)


def test_damaged_models_are_refused_and_last_is_made_again(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = "diffusion_pytorch_model.safetensors"
    assert resolve_model("", trained.parent, "train_toy") == trained / "best"
    state = Regressor.from_pretrained(trained / "last").state_dict()
    expected = {name: tensor.clone() for name, tensor in state.items()}  # they are maps of the file
    for name, remedy in (("best", "last/ stands for it"), ("last", "its command writes it again")):
        flip(trained / name / weights, -1)
        with pytest.raises(ValueError, match=rf"{weights} .*remove that folder.*{remedy}"):
            resolve_model("", trained.parent, "train_toy", name)
    run_toy(experiment(trained.parents[1]))
    assert "writing" in capfd.readouterr().err
    assert find_fault(trained / "last") is None
    for name, tensor in Regressor.from_pretrained(trained / "last").state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_damaged_snapshot_is_named(trained: Path) -> None:
    assert averaged_weights(trained, 0.1)
    flip(trained / "ema" / "step-00000001" / "average-0.1.safetensors", -1)
    with pytest.raises(ValueError, match=r"step-00000001 .*average-0.1.safetensors"):
        averaged_weights(trained, 0.1)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    StageFolder(str(tmp_path), "one", "stage").open({}).close()
    (tmp_path / "one" / "stage" / "provenance.json").write_text('{"settings": {')
    with pytest.raises(ValueError, match=r"provenance.json .*remove"):
        StageFolder(str(tmp_path), "one", "stage").open({})


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step 1.* not finite.* lr"):
        run_toy(experiment(tmp_path, steps=1, lr=float("inf"), ema_snapshot_every=0))
    assert load_latest(tmp_path / "one" / "train_toy" / "checkpoints") is None
    assert not (tmp_path / "one" / "train_toy" / "last").exists()


def test_lack_of_room_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = sum(p.numel() for p in Regressor(architecture={"width": 5}).parameters()) + 2
    assert bytes_of_checkpoint(parameters, LOOP) == 4 * parameters * 7
    assert bytes_of_checkpoint(parameters, replace(LOOP, ema_snapshot_every=0)) == 4 * parameters * 5
    assert bytes_on_disk(parameters, LOOP) == 3 * 4 * parameters * 7 + 4 * parameters * (1 + 2)
    run_toy(experiment(tmp_path))
    saved = sum(file.stat().st_size for file in (tmp_path / "one/train_toy/checkpoints/step-00000002").glob("*.safe*"))
    assert saved > 4 * parameters * 6
    usage = type("Usage", (), {"free": 4 * parameters * 7 - 1})
    monkeypatch.setattr("pipelines.run.training_state.shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"train_toy .* GB are free .*run.root="):
        run_toy(experiment(tmp_path, steps=4))


def test_a_full_disk_outside_a_save_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: ToyExperiment) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    with pytest.raises(SystemExit) as ended:
        main("train_toy", run, ToyExperiment, ("run",), arguments=[f"run.root={tmp_path}"], default=empty(tmp_path))
    assert ended.value.code == 2
    assert "metrics.jsonl cannot be written or read (No space left on device)" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "file", {})
    arguments = [f"run.root={tmp_path / 'file'}"]
    with pytest.raises(SystemExit) as ended:
        main("train_toy", run_toy, ToyExperiment, ("run",), arguments=arguments, default=empty(tmp_path))
    assert ended.value.code == 2 and "file cannot be written: choose another run.root=" in capsys.readouterr().err


def empty(folder: Path) -> Path:
    (folder / "empty.yaml").write_text("{}")
    return folder / "empty.yaml"


def test_one_process_does_what_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes the second has nothing to do with a report; the first does not wait for it."""
    import os

    from pipelines.run.stage import alone, run_stage

    done = []
    report = alone(lambda config: done.append(("report", os.environ.get("RANK", "0"))))
    for rank in ("1", "0"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        run_stage("train_toy", lambda config, rank=rank: done.append(("train_toy", rank)), experiment(tmp_path))
        run_stage("report", report, experiment(tmp_path))
    assert done == [("train_toy", "1"), ("train_toy", "0"), ("report", "0")]
    assert "WORLD_SIZE" not in os.environ
