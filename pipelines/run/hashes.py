"""Hashes of files, of folders of weights and of facts: what provenance and folder names are made of."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def hash_file(path: Path) -> str:
    """sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


VOLATILE_CONFIG_KEYS = ("_diffusers_version", "_name_or_path")


def hash_folder(path: Path) -> str:
    """sha256 over weights and config of a `save_pretrained` folder: what a later stage records as its input.

    Not included: the library version that diffusers notes in config.json. A process reads files once, and again when
    size or time of change say that they are others; `manifest.find_fault` trusts neither.
    """
    path = path.resolve()
    files = [file for file in sorted(path.rglob("*")) if file.suffix == ".safetensors" or file.name == "config.json"]
    stats = [file.stat() for file in files]
    seen = tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)
    return _hash_files(path, tuple(files), seen)


@functools.cache
def _hash_files(folder: Path, files: tuple[Path, ...], seen: tuple[tuple[int, ...], ...]) -> str:
    """seen: size, time of change and number of each file; what is remembered is of these files and no others."""
    digest = hashlib.sha256()
    for file in files:
        if file.suffix == ".safetensors":
            digest.update(f"{file.relative_to(folder)} {hash_file(file)}\n".encode())
        else:
            config = json.loads(file.read_text(encoding="utf-8"))
            kept = {name: value for name, value in config.items() if name not in VOLATILE_CONFIG_KEYS}
            digest.update(f"{file.relative_to(folder)} {json.dumps(kept, sort_keys=True)}\n".encode())
    return digest.hexdigest()


def digest(*facts: Any) -> str:
    """sha256 of JSON-ready facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
