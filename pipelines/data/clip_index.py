"""The clip index: which files are used, with label, split and real frame count, and which are not, with the reason."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

SPLITS = ("train", "validation")


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
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the clip index {path} is damaged ({error}); remove it and run prepare_data") from error
        if index.fingerprint != content["fingerprint"]:
            raise ValueError(f"the clip index {path} was edited by hand; remove it and run prepare_data")
        return index
