"""Which fields of dataclasses the code reads, told by the type checker: `.name` counts for that class only."""

import dataclasses
import os
import typing
from collections.abc import Iterator, Sequence

from mypy.build import BuildResult, build
from mypy.find_sources import create_source_list
from mypy.nodes import Expression, FuncDef, MemberExpr, NameExpr, TypeInfo, Var
from mypy.options import Options
from mypy.types import Instance, UnionType, get_proper_type

Field = tuple[type, str]


def fields_of(*schemas: type) -> set[Field]:
    """(class that declares it, name) of every field of these dataclasses and of those that they are composed of."""
    found: set[Field] = set()
    for schema in schemas:
        kinds = typing.get_type_hints(schema)
        for field in dataclasses.fields(schema):
            declared_in = next(
                base for base in schema.__mro__ if field.name in base.__dict__.get("__annotations__", {})
            )
            found.add((declared_in, field.name))
            inside = (kinds[field.name], *typing.get_args(kinds[field.name]))
            found |= fields_of(*(kind for kind in inside if dataclasses.is_dataclass(kind)))
    return found


def read_fields(paths: Sequence[str]) -> set[tuple[str, str]]:
    """(full name of a class, name) of every attribute that these files and folders read of it or of a subclass.

    A check in `__post_init__` is no use of an option, and does not count.
    """
    options = Options()
    options.incremental, options.cache_dir = False, os.devnull
    options.export_types = options.preserve_asts = options.check_untyped_defs = True
    options.follow_imports, options.ignore_missing_imports = "skip", True  # third parties hold none of our options
    result = build(create_source_list(list(paths), options), options)
    checks = set(_self_of_checks(result))
    read = set()
    for expression in result.types:
        if isinstance(expression, MemberExpr) and _root(expression) not in checks:
            for info in _classes(result, expression.expr):
                read |= {(base.fullname, expression.name) for base in info.mro}
    return read


def unread(schemas: Sequence[type], paths: Sequence[str]) -> set[str]:
    """The fields of these dataclasses, "Class.field", that no line of these files and folders reads."""
    read = read_fields(paths)
    return {
        f"{schema.__qualname__}.{name}"
        for schema, name in fields_of(*schemas)
        if (f"{schema.__module__}.{schema.__qualname__}", name) not in read
    }


def _classes(result: BuildResult, expression: Expression) -> Iterator[TypeInfo]:
    kind = get_proper_type(result.types.get(expression))
    for one in kind.items if isinstance(kind, UnionType) else [kind]:
        if isinstance(proper := get_proper_type(one), Instance):
            yield proper.type


def _self_of_checks(result: BuildResult) -> Iterator[Var]:
    for module in result.files.values():
        for symbol in module.names.values():
            if isinstance(symbol.node, TypeInfo) and "__post_init__" in symbol.node.names:
                method = symbol.node.names["__post_init__"].node
                if isinstance(method, FuncDef):
                    yield method.arguments[0].variable


def _root(expression: Expression) -> object:
    """The variable that a.b.c begins with."""
    while isinstance(expression, MemberExpr):
        expression = expression.expr
    return expression.node if isinstance(expression, NameExpr) else None
