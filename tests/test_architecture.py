"""The architecture: which room may import what, and the rules of style that a program can check."""

import ast
import dataclasses
import importlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipelines.run.config import field_comments

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("vae", "latte", "pipelines.data", "pipelines.metrics", "pipelines.run")
OURS = ("vae", "latte", "pipelines", "tests")
# The order of the chain: a stage may import stages before it.
STAGES = [
    *("prepare_data", "train_motion", "train_vae", "reconstruct", "cache_latents", "train_latte", "sample", "evaluate"),
    *("report", "export", "ablate", "benchmark", "doctor", "chain"),
]
FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper"}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LOOP = 300, 60, 100
SOURCES = sorted(path for top in ("vae", "latte", "pipelines") for path in (ROOT / top).rglob("*.py"))
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """The full names of our own modules that a file imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OURS)


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


@every_source
def test_imports_follow_the_rooms(path: Path) -> None:
    module = module_name(path)
    for name in imports(path):
        if room_of(module):
            assert room_of(name) == room_of(module), f"{module} imports {name}, but a room imports itself only"
        stage, imported = module.removeprefix("pipelines."), name.split(".")[1] if "." in name else ""
        if stage in STAGES and name.startswith("pipelines.") and imported in STAGES:
            assert STAGES.index(imported) < STAGES.index(stage), f"{module} imports {name}, a later stage"
        if name.startswith("vae.rivals"):
            assert module == "vae.registry" or module.startswith("vae.rivals"), f"only vae/registry.py imports {name}"
        assert not name.startswith("tests"), f"{module} imports tests"


@every_source
def test_files_are_small_named_and_introduced(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST_FILE
    assert path.stem not in FORBIDDEN_NAMES
    assert not re.search(r"_(v\d+|new|old|backup)$", path.stem)
    if path.name == "__init__.py":
        assert not text.strip(), "an __init__.py stays empty"
    else:
        assert ast.get_docstring(tree(path)), "a module opens with its job and its place in the chain"


def test_every_folder_of_code_is_a_package() -> None:
    for path in SOURCES:
        assert (path.parent / "__init__.py").exists(), path.parent
    assert not list((ROOT / "tests").rglob("__init__.py")), "tests/vae/__init__.py would shadow vae"


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Every function and method with whether it is public: neither it nor a class or function around it is private."""

    def visit(node: ast.AST, public: bool) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                dunder = child.name.startswith("__") and child.name.endswith("__")
                yield child, public and (dunder or not child.name.startswith("_"))
                yield from visit(child, False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, public and not child.name.startswith("_"))
            else:
                yield from visit(child, public)

    yield from visit(tree(path), True)


@every_source
def test_functions_are_short_and_typed(path: Path) -> None:
    for function, _ in functions(path):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        is_loop = (path.name, function.name) == ("loop.py", "train")
        assert length <= (LONGEST_LOOP if is_loop else LONGEST_FUNCTION), f"{function.name} has {length} lines"
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        untyped = [argument.arg for argument in named if argument and not argument.annotation]
        assert [name for name in untyped if name not in ("self", "cls")] == [], f"{function.name} has untyped arguments"
        assert function.returns is not None, f"{function.name} does not say what it returns"


@every_source
def test_public_tensor_functions_are_documented(path: Path) -> None:
    """Shapes and ranges of what goes through a public function stand in its docstring."""
    missing = [
        node.name
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and any("Tensor" in ast.unparse(argument.annotation) for argument in node.args.args if argument.annotation)
        and not ast.get_docstring(node)
    ]
    assert missing == [], f"public tensor functions without a docstring: {missing}"


@every_source
def test_no_bare_except(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except in line {node.lineno}"


def test_every_option_has_a_meaning() -> None:
    """Each field of each dataclass called ...Config has a trailing comment, which --help shows."""
    checked = 0
    for path in SOURCES:
        names = [
            node.name for node in tree(path).body if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        ]
        for name in names:
            schema = getattr(importlib.import_module(module_name(path)), name)
            if dataclasses.is_dataclass(schema):
                expected = {
                    field.name for field in dataclasses.fields(schema) if not dataclasses.is_dataclass(field.type)
                }
                assert expected <= field_comments(schema).keys(), f"{name} in {path.relative_to(ROOT)}"
                checked += 1
    assert checked >= 2


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Path and content of every tracked text file."""
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            content = (ROOT / name).read_bytes()
            if b"\0" not in content:
                yield name, content.decode("utf-8")


def test_no_machine_path_nor_registry_host_in_tracked_files() -> None:
    folders = "|".join(("home", "root", "work", "tmp", "Users", "opt"))
    machine_path = re.compile(rf"(?<![\w.$)}}~/-])/({folders})/\w")
    host = re.compile(r"pypi\.org|pythonhosted|--(extra-)?index-url|download\.pytorch\.org/whl|--find-links")
    for name, text in tracked_texts():
        if name != "tests/test_architecture.py":
            assert not machine_path.search(text), f"{name} names a folder of one machine: {machine_path.search(text)}"
            assert not host.search(text), f"{name} names a package registry"


def test_nothing_heavy_nor_executable_is_tracked() -> None:
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    names = [name for name in listing.stdout.decode().split("\0") if name]
    for name in names:
        assert not name.endswith((".pyc", ".pt", ".pth", ".ckpt", ".ipynb", ".pkl", ".npy")), name
        assert not (ROOT / name).is_file() or (ROOT / name).stat().st_size < 2_000_000, f"{name} is above 2 MB"


def test_the_lock_pins_everything_by_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    requirements = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.M).strip())
    assert len(requirements) > 50
    for requirement in requirements:
        assert re.match(r"[a-z0-9._-]+==\S+", requirement) and "--hash=sha256:" in requirement, requirement
    assert {"torch==2.15.0", "torchvision==0.29.2", "omegaconf==2.4.0"} <= {line.split()[0] for line in requirements}
