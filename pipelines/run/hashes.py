"""Hashes of files, of folders of weights and of facts: what provenance and folder names are made of."""

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

    Not included: the library version that diffusers notes in config.json.
    """
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.suffix == ".safetensors":
            digest.update(f"{file.relative_to(path)} {hash_file(file)}\n".encode())
        elif file.name == "config.json":
            config = json.loads(file.read_text(encoding="utf-8"))
            kept = {name: value for name, value in config.items() if name not in VOLATILE_CONFIG_KEYS}
            digest.update(f"{file.relative_to(path)} {json.dumps(kept, sort_keys=True)}\n".encode())
    return digest.hexdigest()


def digest(*facts: Any) -> str:
    """sha256 of JSON-ready facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
