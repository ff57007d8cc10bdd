"""One readable file that holds a class and everything of ours that it needs, taken from the real sources.

diffusers copies a pipeline's code into one flat folder and loads each file by itself: every component brings one file.
"""

import ast
import builtins
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3]
OURS = ("vae", "latte", "pipelines")
HEADER = '''"""{title}

Written by pipelines/export.py: what {root} needs of each module.
Classes that occur in annotations only are left out.
SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations
'''


@dataclass(frozen=True)
class Definition:
    """A top-level statement that binds names, with the comment above it."""

    text: str
    is_block: bool  # a function or class, set apart by empty lines
    reads: frozenset[str]  # names that it needs when it runs
    mentions: frozenset[str]  # names in its annotations


@dataclass
class Module:
    """A source file of ours: what it defines and imports, by name."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)  # local name -> (module, name there)
    others: dict[str, str] = field(default_factory=dict)  # local name -> import statement
    imported: list[str] = field(default_factory=list)  # our modules, in order
    cannot: str = ""  # the place of a statement that no bundle can hold


def bundle(module: str, name: str, title: str) -> str:
    """The text of a file that defines `name` of `module` with all that it needs; the same sources, the same text."""
    needed: dict[str, set[str]] = {}
    imports: dict[str, str] = {}
    _reach(module, name, needed, imports)
    pieces, origin = [], dict.fromkeys([*dir(builtins), *imports], "an import")
    for source in (source for source in _in_import_order(module) if source in needed):
        pieces.append(f"\n\n# {'-' * 20} {source.replace('.', '/')}.py\n")
        texts = {}
        for defined, definition in read_module(source).definitions.items():
            if defined in needed[source]:
                assert defined not in origin, f"{source} and {origin[defined]} both define {defined}"
                origin[defined] = source
                # several names of one assignment share its text
                texts[definition.text] = f"\n\n{definition.text}\n\n" if definition.is_block else definition.text
        pieces += texts.values()
    head = HEADER.format(title=title, root=f"{module}.{name}")
    body = "\n".join([*_grouped(set(imports.values())), *pieces])
    while "\n\n\n\n" in body:
        body = body.replace("\n\n\n\n", "\n\n\n")
    return f"{head}\n{body.strip()}\n"


def _grouped(statements: set[str]) -> list[str]:
    """Import statements, sorted, with one `from` statement per module."""
    names: dict[str, list[str]] = {}
    for statement in sorted(statements):
        module, _, name = statement.partition(" import ")
        names.setdefault(module, []).append(name)
    return [f"{module} import {', '.join(parts)}" if any(parts) else module for module, parts in names.items()]


def file_name(stem: str, text: str) -> str:
    """Name of a code file: no other text shares it, since diffusers keeps the code of all pipelines in one folder."""
    return f"{stem}_{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"


def requirements(texts: list[str]) -> list[str]:
    """The packages besides the standard library that bundled files import."""
    tops = {name.split(".")[0] for text in texts for name in _imported_modules(ast.parse(text))}
    return sorted(tops - set(sys.stdlib_module_names))


@cache
def read_module(name: str) -> Module:
    """Parse a module of ours; a bundle holds imports, definitions and plain assignments."""
    text = (SOURCE / name.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    module, lines = Module(), text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _note_import(module, node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            module.definitions[node.name] = _definition(node, lines)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            module.definitions |= dict.fromkeys(names, _definition(node, lines))
        else:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            if not is_docstring and not is_main:
                module.cannot = f"{name}, line {node.lineno}"
    return module


def _note_import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    for alias in node.names:
        local = alias.asname or alias.name.split(".")[0]
        renamed = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            assert not renamed, f"{node.module}.{alias.name} is imported under another name"
            module.ours[local] = (str(node.module), alias.name)
            module.imported.append(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            module.others[local] = f"from {node.module} import {alias.name}{renamed}"
        elif isinstance(node, ast.Import) and alias.name.split(".")[0] not in OURS:
            module.others[local] = f"import {alias.name}{renamed}"


def _definition(node: ast.stmt, lines: list[str]) -> Definition:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    names = list(_names(node))
    return Definition(
        text="\n".join(lines[first : node.end_lineno]),
        is_block=isinstance(node, ast.FunctionDef | ast.ClassDef),
        reads=frozenset(name for name, is_annotation in names if not is_annotation),
        mentions=frozenset(name for name, is_annotation in names if is_annotation),
    )


def _names(node: ast.AST, in_annotation: bool = False) -> Iterator[tuple[str, bool]]:
    """Every name below `node`, with whether it stands in an annotation, which the bundled file does not evaluate."""
    if isinstance(node, ast.Name):
        yield node.id, in_annotation
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _names(child, in_annotation or name in ("annotation", "returns"))


def _reach(
    module: str, name: str, needed: dict[str, set[str]], imports: dict[str, str], is_mention: bool = False
) -> None:
    """Add `name` of `module` and all that it reads to `needed` {module: names} and `imports` {name: statement}."""
    source = read_module(module)
    if name in source.ours:
        _reach(*source.ours[name], needed, imports, is_mention)
    elif name in source.others:
        statement = source.others[name]
        assert imports.setdefault(name, statement) == statement, f"{name} is {imports[name]} and {statement}"
    elif name in source.definitions and name not in needed.get(module, set()):
        definition = source.definitions[name]
        if is_mention and definition.is_block:
            return
        assert not source.cannot, f"{source.cannot} cannot be bundled"
        needed.setdefault(module, set()).add(name)
        for read in definition.reads:
            _reach(module, read, needed, imports)
        for mention in definition.mentions:
            _reach(module, mention, needed, imports, is_mention=True)


def _in_import_order(root: str) -> list[str]:
    """Our modules that `root` imports, each after those that it imports itself, `root` last."""
    order: list[str] = []

    def visit(name: str) -> None:
        for imported in read_module(name).imported:
            if imported not in order:
                visit(imported)
        order.append(name)

    visit(root)
    return order


def _imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
