"""What a measured number depends on, as one hash, which comments and docstrings do not change."""

import ast
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def hash_code(names: Sequence[str]) -> str:
    """sha256 over rooms ("vae"), modules ("pipelines.train_vae"), files and folders ("configs/demo.yaml").

    Raises ValueError for a name that is none of these.
    """
    digest = hashlib.sha256()
    for path in sorted({path for name in names for path in _files(name)}):
        digest.update(json.dumps([path.relative_to(REPOSITORY).as_posix(), _content(path)]).encode())
    return digest.hexdigest()


def _files(name: str) -> list[Path]:
    if "/" in name:
        place = REPOSITORY / name
        found = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
    else:
        place = REPOSITORY / name.replace(".", "/")
        found = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    if not found or not all(file.is_file() for file in found):
        raise ValueError(f"a study depends on {name!r}, which is no room, module or file of this repository")
    return found


def _content(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return list(_facts(ast.parse(text)))
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    return text


def _facts(node: ast.AST) -> Iterator[Any]:
    """A syntax tree as nested lists; empty fields are left out, so that every version of Python gives the same."""
    yield type(node).__name__
    for field in node._fields:
        value = getattr(node, field, None)
        if field == "kind" or value is None or value == []:
            continue
        if field == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
        yield field
        if isinstance(value, list):
            yield [list(_facts(item)) if isinstance(item, ast.AST) else repr(item) for item in value]
        else:
            yield list(_facts(value)) if isinstance(value, ast.AST) else repr(value)
