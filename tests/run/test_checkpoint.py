"""Checkpoints: whatever kills or damages a save, the last good one is found, a damaged one never taken for good."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.run.checkpoint import load_latest, publish, save_checkpoint
from pipelines.run.hashes import hash_folder

# One process imports torch; its forks save without end and are killed at random moments.
KILLER = """
import os, random, signal, sys, time, torch
from pathlib import Path
from pipelines.run.checkpoint import load_latest, save_checkpoint
torch.set_num_threads(1)
folder, moments = Path(sys.argv[1]), random.Random(0)
last = 0
for _ in range(25):
    child = os.fork()
    if child == 0:
        for step in range(last + 1, 100000):
            save_checkpoint(folder, step, {"net": {"weight": torch.full((200, 200), float(step))}}, {}, keep=1)
    deadline = time.monotonic() + 60
    while max((int(path.name[5:]) for path in folder.glob("step-*")), default=0) <= last:
        assert time.monotonic() < deadline, "nothing is saved"
    time.sleep(moments.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = load_latest(folder)
    assert found is None and last == 0 or found.step >= last, "a checkpoint was lost"
    assert found is None or torch.all(found.tensors["net"]["weight"] == found.step)
    last = found.step if found else 0
print(last)
"""


def save(folder: Path, step: int, keep: int = 2) -> None:
    save_checkpoint(folder, step, {"net": {"weight": torch.full((3, 2), float(step))}}, {"best": step / 2}, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_and_pruning(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"net": {"a": shared, "tied": shared, "column": shared[:, 1], "empty": torch.zeros(3, 0)}, "n": {}}
    save_checkpoint(tmp_path, 7, tensors, {"best": None}, keep=1)
    found = load_latest(tmp_path)
    assert found is not None
    assert (found.step, found.state["best"]) == (7, None)
    for name, tensor in tensors["net"].items():
        assert torch.equal(found.tensors["net"][name], tensor)
    for step in (8, 9, 10, 10):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000009", "step-00000010"]


def test_killed_saves_leave_a_complete_checkpoint(tmp_path: Path) -> None:
    killer = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killer.returncode == 0, killer.stderr
    assert "damaged" not in killer.stderr
    assert int(killer.stdout) > 25
    save(tmp_path, 10**6, keep=1)
    assert names(tmp_path) == ["step-01000000"], "half-written folders are swept away"


@pytest.mark.parametrize("file", ["net.safetensors", "state.json", "MANIFEST.json"])
def test_a_flipped_byte_falls_back_loudly(tmp_path: Path, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    for position in range(0, (tmp_path / "step-00000002" / file).stat().st_size, 37):
        path = tmp_path / "step-00000002" / file
        content = path.read_bytes()
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        found = load_latest(tmp_path)
        # A flipped space of the manifest says the same as before; everything else must be noticed.
        if found is None or found.step != 1:
            assert content[position : position + 1].isspace() and file == "MANIFEST.json"
        else:
            assert "step-00000002 is damaged" in capfd.readouterr().err
        path.write_bytes(content)
    (tmp_path / "step-00000002" / file).unlink()
    assert load_latest(tmp_path).step == 1


def test_damaged_checkpoints_take_no_place_of_intact_ones(tmp_path: Path) -> None:
    """A run that fell back behind damaged checkpoints keeps what it goes on from, until it has passed them."""
    for step in (500, 900, 1000):
        save(tmp_path, step, keep=3)
    for step in (900, 1000):
        (tmp_path / f"step-{step:08d}" / "net.safetensors").write_bytes(b"cut")
    for step, intact in ((600, {500, 600}), (700, {600, 700}), (1000, {700, 1000}), (1100, {1000, 1100})):
        save(tmp_path, step)
        assert load_latest(tmp_path).step == step
        kept = {int(path.name.removeprefix("step-")) for path in tmp_path.glob("step-*")}
        assert intact - {700} <= kept, "the newest, and the one before it"


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-00000001" / "net.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint .*intact"):
        load_latest(tmp_path)


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ValueError, match="written .* make room"):
            save_checkpoint(tmp_path, 2, {"net": {"weight": torch.zeros(100, 100)}}, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["step-00000001"]
    assert load_latest(tmp_path).step == 1


def test_publish_replaces_whole_folders(tmp_path: Path) -> None:
    target = tmp_path / "last"
    publish(target, lambda folder: (folder / "a").write_text("1") and None)
    publish(target, lambda folder: (folder / "b").write_text("2") and None)
    assert names(target) == ["b"]

    def fail(folder: Path) -> None:
        (folder / "c").write_text("3")
        raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        publish(target, fail)
    assert names(target) == ["b"]
    assert names(tmp_path) == ["last"]


def test_hash_is_of_weights_and_settings(tmp_path: Path) -> None:
    def write(name: str, weights: bytes, config: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "README.md").write_text(name)
        return hash_folder(tmp_path / name)

    first = write("a", b"1", '{"_diffusers_version": "1", "width": 2}')
    assert write("b", b"1", '{"width": 2, "_diffusers_version": "2"}') == first
    assert write("c", b"2", '{"width": 2}') != first
    assert write("d", b"1", '{"width": 3}') != first
