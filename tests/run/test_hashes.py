"""Hashes of model folders: of the content alone, read once, and anew where a file has changed."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.run import hashes
from pipelines.run.hashes import hash_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "model")


def written(folder: Path) -> Path:
    (folder / "part").mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, folder / "part" / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"width": 3, "_diffusers_version": "1"}))
    return folder


def test_the_hash_is_that_of_the_content(model: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"_diffusers_version": "2", "width": 3}))
    (other / "readme.txt").write_text("anything")
    assert hash_folder(other) == hash_folder(model)
    (other / "config.json").write_text(json.dumps({"width": 4}))
    assert hash_folder(other) != hash_folder(model)


def test_files_are_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    hash_file = hashes.hash_file
    monkeypatch.setattr(hashes, "hash_file", lambda path: read.append(path) or hash_file(path))
    first = hash_folder(model)
    monkeypatch.chdir(model.parent)
    assert hash_folder(Path("model")) == first and len(read) == 1


def test_a_changed_file_is_hashed_anew(model: Path) -> None:
    """Of the same size too, written in place or put in its place."""
    file = model / "part" / "model.safetensors"
    first, time = hash_folder(model), file.stat().st_mtime_ns
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(time + 1, time + 1))
    second = hash_folder(model)
    content[-2] ^= 1
    file.with_name("new").write_bytes(content)
    os.replace(file.with_name("new"), file)
    os.utime(file, ns=(time + 1, time + 1))
    third = hash_folder(model)
    file.rename(file.with_name("renamed.safetensors"))
    assert len({first, second, third, hash_folder(model)}) == 4
