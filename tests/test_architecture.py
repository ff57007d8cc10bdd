"""The architecture: which room may import what, and the rules of style that a program can check."""

import ast
import dataclasses
import importlib
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from pipelines.run.config import field_comments

ROOT = Path(__file__).resolve().parents[1]
OURS = ("vae", "latte", "pipelines", "tests")
FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper"}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LOOP = 300, 60, 100
SOURCES = sorted(path for top in ("vae", "latte", "pipelines") for path in (ROOT / top).rglob("*.py"))
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
# The stages that run other stages; the two of them that are research, and may use the studies.
COMPOSERS, RESEARCH = ("chain", "ablate"), ("ablate", "benchmark")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imported_names(source: ast.Module) -> set[str]:
    """The full names of our own modules, and of things in them, that a file imports, under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


def owner(name: str, modules: Collection[str]) -> str:
    """The module that an imported name is, or lies in."""
    return name if name in modules else name.rpartition(".")[0]


def room_of(module: str) -> str:
    """vae, latte, a folder of pipelines, parts.STAGE for the pieces of a stage, or stage.STAGE for a stage itself."""
    first, *rest = module.split(".")
    if first != "pipelines" or not rest:
        return first
    if len(rest) == 1 and not (ROOT / "pipelines" / rest[0]).is_dir():
        return f"stage.{rest[0]}"
    return ".".join(rest[:2]) if rest[0] == "parts" else rest[0]


FOUNDATIONS = {room_of(module) for module in MODULES} - {"pipelines", "inputs", "studies", "parts"}
FOUNDATIONS = {room for room in FOUNDATIONS if not room.startswith(("stage.", "parts."))}
STAGES = {room.removeprefix("stage.") for room in map(room_of, MODULES) if room.startswith("stage.")}


def refusal(module: str, name: str, modules: Collection[str]) -> str:
    """Why `module` must not import `name`; "" where it may."""
    imported = owner(name, modules)
    here, there = room_of(module), room_of(imported)
    stage = here.rpartition(".")[2] if here.startswith(("stage.", "parts.")) else ""
    if there == "tests":
        return "tests are no part of the product"
    if imported.startswith("vae.rivals") and not (module == "vae.registry" or module.startswith("vae.rivals")):
        return "only vae/registry.py knows the rivals"
    if here == there or here == "studies" and there != "tests":
        return ""
    if here in FOUNDATIONS:
        return "a room imports itself and third parties only"
    if here == "inputs":
        return "" if there in FOUNDATIONS else "inputs imports vae, latte, run, data and metrics only"
    if there == "studies":
        return "" if stage in RESEARCH and here.startswith("stage.") else "only research imports the studies"
    if there.startswith("parts."):
        return "" if there == f"parts.{stage}" else f"the pieces of {there.removeprefix('parts.')} are its own"
    if there.startswith("stage."):
        is_whole = name == imported
        return "" if is_whole and stage in COMPOSERS else "what several stages share does not live in a stage"
    return ""


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, whatever way round; every list is one circle."""
    found = []
    reached: dict[str, set[str]] = {}
    for module in imports:
        seen, waiting = set(), list(imports[module])
        while waiting:
            if (now := waiting.pop()) not in seen:
                seen.add(now)
                waiting += imports.get(now, ())
        reached[module] = seen
    for module in imports:
        circle = sorted(other for other in imports if other in reached[module] and module in reached[other])
        if circle and circle[0] == module:
            found.append(circle)
    return found


def test_the_rooms_stand_in_the_tree() -> None:
    assert {"vae", "latte", "run", "data", "metrics"} == FOUNDATIONS
    assert {"prepare_data", "train_motion", "train_vae", "cache_latents", "train_latte", "sample", "evaluate"} <= STAGES
    assert {path.name for path in (ROOT / "pipelines" / "parts").iterdir() if path.is_dir()} - {"__pycache__"} <= STAGES


@every_source
def test_imports_follow_the_rooms(path: Path) -> None:
    module = module_name(path)
    for name in imported_names(tree(path)):
        assert not (why := refusal(module, name, MODULES)), f"{module} imports {name}: {why}"


def test_there_is_no_circle() -> None:
    imports = {
        module: {owner(name, MODULES) for name in imported_names(tree(path))} for module, path in MODULES.items()
    }
    assert circles(imports) == []


@pytest.mark.parametrize(
    ("module", "line", "why"),
    [
        ("pipelines.train_vae", "from pipelines.train_motion import run_path", "does not live in a stage"),
        ("pipelines.parts.report.curves", "from pipelines.evaluate import score_name", "does not live in a stage"),
        ("pipelines.inputs.samples", "from pipelines.sample import STAGE", "inputs imports"),
        ("pipelines.report", "from pipelines.parts.evaluate.preview import write_preview", "pieces of evaluate"),
        ("pipelines.parts.export.bundle", "from pipelines.parts.report.texts import CURVES", "pieces of report"),
        ("pipelines.inputs.models", "from pipelines.parts.sample.plan import plan_samples", "inputs imports"),
        ("pipelines.metrics.fvd", "from pipelines.run.ranks import connect", "a room imports itself"),
        ("latte.trainer", "from vae.interface import crop", "a room imports itself"),
        ("pipelines.evaluate", "from pipelines.studies.judges import Judges", "only research"),
        ("pipelines.sample", "from vae.rivals.plain_vae import PlainVAE", "only vae/registry.py"),
        ("pipelines.sample", "def f():\n    from tests.tiny_vae import tiny", "tests are no part"),
    ],
)
def test_a_planted_import_is_refused(module: str, line: str, why: str) -> None:
    """Also where it hides in a function or under TYPE_CHECKING."""
    assert module in MODULES
    hidden = f"if TYPE_CHECKING:\n    {line}" if line.startswith("from") else line
    for text in (line, hidden):
        (name,) = imported_names(ast.parse(text))
        assert why in refusal(module, name, MODULES)


def test_planted_circles_are_found() -> None:
    apart = {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}
    assert circles(apart) == []
    assert circles({**apart, "c": {"a"}}) == [["a", "b", "c"]]
    late = ast.parse("if TYPE_CHECKING:\n    from pipelines.run.loop import train")
    assert circles(
        {
            "pipelines.run.loop": {"pipelines.run.update"},
            "pipelines.run.update": {owner(name, MODULES) for name in imported_names(late)},
        }
    ) == [["pipelines.run.loop", "pipelines.run.update"]]


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
    """Each field of each dataclass called ...Config or ...Section has a trailing comment, which --help shows."""
    checked = 0
    for path in SOURCES:
        names = [
            node.name
            for node in tree(path).body
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Section"))
        ]
        for name in names:
            schema = getattr(importlib.import_module(module_name(path)), name)
            if dataclasses.is_dataclass(schema):
                expected = {
                    field.name for field in dataclasses.fields(schema) if not dataclasses.is_dataclass(field.type)
                }
                assert expected <= field_comments(schema).keys(), f"{name} in {path.relative_to(ROOT)}"
                checked += 1
    assert checked >= 20


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
