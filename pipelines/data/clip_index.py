"""The clip index: which files are used, with label, split and real frame count, and which are not, with the reason."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.data.data_config import DataConfig
from pipelines.data.probe import probe_files
from pipelines.data.split_lists import Inventory, VideoFile, assign_splits, take_inventory

SPLITS = ("train", "validation")
FRAMES_LEFT_OUT = 2  # a header may count frames that no reader delivers, without any damage
PROBED = ("num_frames", "width", "height", "fps", "reader", "sha256")


@dataclass(frozen=True)
class ClipEntry:
    """One accepted video file."""

    path: str  # relative to the root of the index
    label: int  # position in ClipIndex.classes; -1 where there are no classes
    split: str  # "train" or "validation"
    num_frames: int  # frames that the reader delivers
    width: int  # of the upright picture
    height: int
    fps: float
    reader: str  # "decord" or "av", the one that was checked
    sha256: str  # of the file


@dataclass(frozen=True)
class ClipIndex:
    """Accepted and rejected files of one data set."""

    root: Path
    classes: tuple[str, ...]  # () where the data has no classes
    entries: tuple[ClipEntry, ...]
    rejected: tuple[tuple[str, str], ...]  # (path, reason)
    missing: tuple[str, ...] = ()  # named in a split list or CSV, but not there
    cut: tuple[tuple[str, str], ...] = ()  # accepted files that end before their header says, (path, what there is)

    @property
    def fingerprint(self) -> str:
        """sha256 over classes and accepted files with content, label and split; independent of where the root lies."""
        facts = [self.classes, [(e.path, e.label, e.split, e.num_frames, e.sha256) for e in self.entries]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def split(self, name: str) -> tuple[ClipEntry, ...]:
        """Entries of "train" or "validation".

        Raises:
            ValueError: unknown name, or the split is empty.
        """
        if name not in SPLITS:
            raise ValueError(f"got split {name!r}, expected one of {SPLITS}")
        entries = tuple(entry for entry in self.entries if entry.split == name)
        if not entries:
            raise ValueError(
                f"the {name} split of {self.root} has no accepted file; see the rejected files in index.json, "
                "and data.splits and data.validation_fraction"
            )
        return entries

    def save(self, path: Path) -> None:
        """Writes JSON atomically; a root beside or below the file is stored relative, so that a run can be moved."""
        root = self.root.absolute()
        relative = root.is_relative_to(path.absolute().parent)
        content = {
            "root": str(root.relative_to(path.absolute().parent) if relative else root),
            "fingerprint": self.fingerprint,
            "classes": self.classes,
            "entries": [asdict(entry) for entry in self.entries],
            "rejected": self.rejected,
            "missing": self.missing,
            "cut": self.cut,
        }
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(content, indent=1))
        os.replace(part, path)

    @staticmethod
    def load(path: Path) -> "ClipIndex":
        """Reads what `save` wrote.

        Raises:
            ValueError: there is no such file, or it was damaged or edited.
        """
        if not path.exists():
            raise ValueError(f"there is no clip index {path}; make it with prepare_data")
        try:
            content = json.loads(path.read_text())
            index = ClipIndex(
                root=path.absolute().parent / content["root"],
                classes=tuple(content["classes"]),
                entries=tuple(ClipEntry(**entry) for entry in content["entries"]),
                rejected=tuple((name, reason) for name, reason in content["rejected"]),
                missing=tuple(content["missing"]),
                cut=tuple((name, what) for name, what in content.get("cut", [])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the clip index {path} is damaged ({error}); remove it and run prepare_data") from error
        if index.fingerprint != content["fingerprint"]:
            raise ValueError(f"the clip index {path} was edited by hand; remove it and run prepare_data")
        return index


def build_index(
    config: DataConfig, seed: int, probe_cache: Path | None = None, without: Path | None = None
) -> ClipIndex:
    """Finds, checks and splits the files of data.root.

    Args:
        config: data section; root must be set.
        seed: of the split, where no list gives one.
        probe_cache: file that remembers checks by (path, size, mtime).
        without: a folder whose files are no data: that of the runs.

    Raises:
        ValueError: the root or lists are wrong, or no training file is left.
    """
    inventory = take_inventory(config, without)
    answers = probe_files(inventory.root, [file.path for file in inventory.files], config, probe_cache)
    accepted, rejected = _accept(inventory, answers, config)
    files = assign_splits(accepted, config.validation_fraction, seed)
    present = {file.class_name for file in files}
    classes = tuple(name for name in inventory.classes if name in present)
    entries = []
    for file in files:
        facts = {name: answers[file.path][name] for name in PROBED}
        label = classes.index(file.class_name) if classes else -1
        entries.append(ClipEntry(path=file.path, label=label, split=file.split, **facts))
    if not any(entry.split == "train" for entry in entries):
        first = f", for example {rejected[0][0]}: {rejected[0][1]}" if rejected else ""
        raise ValueError(
            f"data.root {config.root} has no file to train on: {len(entries)} accepted, all for validation, and "
            f"{len(rejected)} rejected{first}; give other files, or fewer data.num_frames or data.frame_stride"
        )
    cut = [
        (entry.path, f"{entry.num_frames} of {answers[entry.path]['header_frames']} frames")
        for entry in entries
        if entry.num_frames < answers[entry.path].get("header_frames", 0) - FRAMES_LEFT_OUT
    ]
    return ClipIndex(inventory.root, classes, tuple(entries), tuple(sorted(rejected)), inventory.missing, tuple(cut))


def _accept(
    inventory: Inventory, answers: dict[str, dict], config: DataConfig
) -> tuple[list[VideoFile], list[tuple[str, str]]]:
    accepted, rejected = [], list(inventory.rejected)
    first_with: dict[str, str] = {}  # content -> path
    for file in inventory.files:
        answer = answers[file.path]
        reason = answer.get("error", "")
        if not reason and answer["num_frames"] < config.clip_span:
            reason = f"too short: {answer['num_frames']} frames, a clip needs {config.clip_span}"
        if not reason and (other := first_with.setdefault(answer["sha256"], file.path)) != file.path:
            reason = f"duplicate of {other}"
        if reason:
            rejected.append((file.path, reason))
        else:
            accepted.append(file)
    return accepted, rejected
