"""Checkpoints that survive a kill at any instant: written aside, listed in a manifest, flushed, renamed; then pruned.

checkpoints/step-00000200/  <group>.safetensors ...  state.json  MANIFEST.json (size and sha256 of each file)
"""

import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipelines.run.manifest import find_fault, listed_files, write_manifest

STATE = "state.json"
AT_WORKING_DIRECTORY, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint: tensors by group and name (on the CPU), and JSON state."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    path: Path


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write folder/step-N, then remove all up to it but the newest `keep`; ValueError when it cannot be written.

    Whatever happens meanwhile, the checkpoints that stood there before can still be loaded.
    """

    def write(target: Path) -> None:
        for group, named in tensors.items():
            save_file(_saveable(named), target / f"{group}.safetensors")
        (target / STATE).write_text(json.dumps({"step": step, **state}, indent=2), encoding="utf-8")
        write_manifest(target)

    target = folder / f"step-{step:08d}"
    _sweep(folder, r"step-\d+")
    publish(target, write)
    # What stands there of later steps was damaged, or this run would go on from it: it takes nobody's place.
    reached = [path for path in _steps(folder) if path.name <= target.name]
    for old in reached[max(keep, 1) :]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says; None when there is none at all.

    A damaged one is named on stderr and the one before it is taken. Raises ValueError when all are damaged.
    """
    found = _steps(folder)
    for path in found:
        fault = find_fault(path, required=STATE)
        if fault is None:
            return _read(path)
        print(f"WARNING: checkpoint {path} is damaged ({fault}); trying the one before it", file=sys.stderr, flush=True)
    if found:
        raise ValueError(f"no checkpoint in {folder} is intact: remove that folder to begin again from step 0")
    return None


def load_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step; raises ValueError where it is not there or damaged."""
    path = folder / f"step-{step:08d}"
    if fault := find_fault(path, required=STATE):
        raise ValueError(
            f"the first process resumes from {path}, but this one finds it damaged ({fault}): give all processes the "
            "same file system, and start the same command again"
        )
    return _read(path)


def _read(path: Path) -> Checkpoint:
    """The content of a checkpoint that was verified: what its manifest lists and nothing else."""
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    weights = [path / name for name in listed_files(path) if name.endswith(".safetensors")]
    return Checkpoint(state["step"], {file.stem: load_file(file) for file in weights}, state, path)


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Make or replace a folder in one instant: a reader, or a run after a kill, sees the old one or the new one whole.

    write: fills the empty folder it is given. Raises ValueError when the disk refuses; the old folder then stands.
    """
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent, re.escape(folder.name))
        temporary.mkdir()
        write(temporary)
        for path in [*temporary.rglob("*"), temporary]:
            _flush(path)
        if folder.exists():
            _exchange(temporary, folder)
        else:
            os.replace(temporary, folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder} could not be written ({error}): make room there and start the same command again; "
            "what was saved before is untouched"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    """The checkpoint folders, newest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left half written; nobody else is writing, since the stage folder is locked."""
    for path in folder.glob(".*"):
        if re.fullmatch(rf"\.{name}-\d+(-aside)?", path.name):
            shutil.rmtree(path)


def _saveable(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(_distinct(named))


def _distinct(named: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    # safetensors refuses tensors that share memory (tied weights): the second of a pair is copied
    seen: set[int] = set()
    for name, tensor in named.items():
        saved = tensor.detach().cpu().contiguous()
        address = saved.untyped_storage().data_ptr()
        yield name, saved.clone() if address in seen else saved
        seen.add(address)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders: in one instant where the system can (Linux), else by two renames."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = (AT_WORKING_DIRECTORY, os.fsencode(first), AT_WORKING_DIRECTORY, os.fsencode(second))
    if rename is None or rename(*paths, RENAME_EXCHANGE) != 0:
        aside = first.with_name(f"{first.name}-aside")
        os.replace(second, aside)
        os.replace(first, second)
        os.replace(aside, first)
