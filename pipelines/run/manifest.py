"""What makes a folder of files trustworthy: a list of them with size and sha256, written last, compared later."""

import json
from pathlib import Path

from pipelines.run.hashes import hash_file

MANIFEST = "MANIFEST.json"


def write_manifest(folder: Path) -> None:
    """List every file that stands in `folder` now."""
    listed = {file.name: {"size": file.stat().st_size, "sha256": hash_file(file)} for file in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(listed, indent=2), encoding="utf-8")


def listed_files(folder: Path) -> list[str]:
    """Names of the files that the manifest of `folder` lists; raises OSError or ValueError where it cannot be read."""
    listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(listed, dict):
        raise ValueError("it holds no list of files")
    return sorted(listed)


def find_fault(folder: Path, required: str = "") -> str | None:
    """What is wrong with a folder, or None: every listed file, `required` among them, has its size and sha256."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in listed.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["size"] or hash_file(file) != expected["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return f"{required} is not listed" if required and required not in listed else None


def require_intact(folder: Path, remedy: str) -> None:
    """Raise ValueError, naming the file and the remedy, where the manifest of `folder`, if it has one, is not kept."""
    if (folder / MANIFEST).exists() and (fault := find_fault(folder)):
        raise ValueError(f"{folder} is damaged ({fault}): {remedy}")
