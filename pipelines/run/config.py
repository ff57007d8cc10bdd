"""Configuration: frozen dataclasses are the schema, YAML files and `key=value` arguments hold the differences.

Each stage is called with `[CONFIG.yaml [overlay.yaml ...]] [key=value ...]`; what does not fit the schema is refused.
A file may begin with `bases: [FILE, ...]`: files that are merged before it.
"""

import ast
import dataclasses
import inspect
import io
import json
import textwrap
import tokenize
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")
GRAMMAR = "arguments are CONFIG.yaml [overlay.yaml ...] [key=value ...]"


def load_config(schema: type[T], arguments: Sequence[str], default: Path, base: T | None = None) -> T:
    """Merge the YAML files, then the key=value arguments, strictly onto `schema`; without a YAML file use `default`.

    base: a configuration to merge onto instead of the schema's own defaults; then no `default` is read.
    Raises ValueError, in one sentence that names the file or argument and the full key, for anything that does not fit.
    """
    for argument in arguments:
        name = argument.partition("=")[0]
        if not is_yaml(argument) and (
            "=" not in argument or not name or name.startswith("-") or not all(name.split("."))
        ):
            raise ValueError(f"argument {argument!r} is not understood: {GRAMMAR}, for example run.name=mine")
    files = [Path(argument) for argument in arguments if is_yaml(argument)]
    config = OmegaConf.structured(schema if base is None else base)
    for path in files or ([default] if base is None else []):
        for file, content in _with_bases(path, default, schema):
            config = _merge(config, content, f"{file}")
    for argument in (argument for argument in arguments if not is_yaml(argument)):
        config = _merge(config, _read_argument(schema, argument), f"argument {argument!r}")
    try:
        return typing.cast(T, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ValueError(f"the configuration is not usable: {_sentence(error)}") from error
    except ValueError as error:
        raise ValueError(_with_full_option(config, f"{error}")) from error


def is_yaml(argument: str) -> bool:
    """Whether a command line argument is a configuration file (and not key=value)."""
    return "=" not in argument and argument.endswith((".yaml", ".yml"))


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts, lists and scalars: what is written, compared and hashed."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    return typing.cast(dict[str, Any], json.loads(json.dumps(container)))  # tuples become lists


def to_yaml(config: Any) -> str:
    """A config dataclass, or plain dict, as YAML."""
    return yaml.safe_dump(config if isinstance(config, dict) else to_dict(config), sort_keys=False, width=120)


def describe_options(schema: type, sections: Sequence[str]) -> str:
    """The help text: every option of the named sections with its type, default and meaning, one per line."""
    return "\n".join(line for section in sections for line in _describe(schema, section))


def _merge(config: DictConfig, change: DictConfig, origin: str) -> DictConfig:
    try:
        return typing.cast(DictConfig, OmegaConf.merge(config, change))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ValueError(f"{origin}: {_sentence(error)}") from error


def _with_bases(
    path: Path, default: Path, schema: type, above: tuple[Path, ...] = ()
) -> Iterator[tuple[Path, DictConfig]]:
    """A YAML file after those that its `bases: [FILE, ...]` names, relative to its own folder."""
    if path.resolve() in above:
        raise ValueError(f"{above[-1]} names {path} in bases, which begins with it: take it out of one of them")
    content = _read_yaml(path, default, schema)
    bases = content.pop("bases", [])
    if not isinstance(bases, ListConfig) and bases != []:
        raise ValueError(f"{path}: bases is {bases!r}, but must be a list of files: [backbones/small.yaml]")
    for base in bases:
        yield from _with_bases(path.parent / str(base), default, schema, (*above, path.resolve()))
    yield path, content


def _read_yaml(path: Path, default: Path, schema: type) -> DictConfig:
    if not path.is_file():
        known = ", ".join(str(file) for file in sorted(default.parent.glob("*.yaml"))) or "none"
        raise ValueError(f"there is no configuration file {path} (files in {default.parent}: {known})")
    try:
        content = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{path} line {line} is not valid YAML: {error.problem or error.context}") from error
    except (OmegaConfBaseException, UnicodeDecodeError, OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {_sentence(error)}") from error
    if not isinstance(content, DictConfig):
        raise ValueError(f"{path} must hold sections such as `run:` with options below them, but holds a list")
    typed = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # every value as it was written
    return OmegaConf.create(_texts_as_typed(schema, OmegaConf.to_container(content), typed))


def _texts_as_typed(kind: Any, value: Any, typed: Any) -> Any:
    """`value` with every text that the schema wants, in lists and dicts too, as it was typed: 002, 1e3, No, null.

    kind: the declared type of the value; typed: the same YAML read without looking for numbers and other words. Where a
    list of texts is wanted, a bare word is a list of one.
    """
    inner = typing.get_args(kind)
    if kind is str:
        return typed if isinstance(typed, str) else value
    if typing.get_origin(kind) in (tuple, list) and inner[0] is str:
        if isinstance(typed, str):
            return [typed] if typed else value
        return typed if isinstance(typed, list) and all(isinstance(one, str) for one in typed) else value
    if isinstance(value, dict) and isinstance(typed, dict):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        of_all = inner[1] if typing.get_origin(kind) is dict else None
        return {
            name: _texts_as_typed(hints.get(name, of_all), one, typed.get(str(name), one))
            for name, one in value.items()
        }
    return value


def _read_argument(schema: type, argument: str) -> DictConfig:
    name, _, value = argument.partition("=")
    kind = _field_type(schema, name)
    is_text = kind is str and not value.startswith(("'", '"'))
    try:
        parsed = value if is_text else yaml.safe_load(value) if value else ""
        if typing.get_args(kind) and value:
            parsed = _texts_as_typed(kind, parsed, yaml.load(value, Loader=yaml.BaseLoader))
        # from_dotlist reads numbers such as 1e-4 the YAML 1.2 way; text stays exactly as it was typed (007, 1e3)
        if not is_text and isinstance(parsed, str | int | float):
            return OmegaConf.from_dotlist([argument if value else f"{name}=''"])
    except yaml.YAMLError as error:
        raise ValueError(f"argument {argument!r}: the value is not valid YAML ({_sentence(error)})") from error
    change: Any = parsed
    for part in reversed(name.split(".")):
        change = {part: change}
    return OmegaConf.create(change)


def _field_type(schema: Any, name: str) -> Any:
    """The declared type behind a dotted name; None when there is no such field."""
    for part in name.split("."):
        if not dataclasses.is_dataclass(schema):
            return typing.get_args(schema)[1] if typing.get_origin(schema) is dict else None
        schema = typing.get_type_hints(schema).get(part)
    return schema


def _with_full_option(config: DictConfig, message: str) -> str:
    """What a dataclass says of its own option ("precision is ..."), with the section where that stands before it."""
    for name, node in config.items_ex(resolve=False):
        if isinstance(node, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(node)):
            try:
                OmegaConf.to_object(node)
            except ValueError:
                inside = _with_full_option(node, message)
                is_own = inside.partition(" ")[0].partition(".")[0] in node
                return f"{name!s}.{inside}" if is_own else inside
    return message


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    full_key = getattr(error, "full_key", None)
    # omegaconf leaves its own placeholders in the message when an element of a list has the wrong type
    message = lines[0].strip().rstrip(".").replace("Value '$VALUE' of type '$VALUE_TYPE'", "an element")
    return f"{full_key}: {message}" if full_key else message


def _describe(schema: type, section: str) -> Iterator[str]:
    field_type = typing.get_type_hints(schema).get(section)
    if field_type is None:
        raise ValueError(f"{schema.__name__} has no section {section!r}")
    yield from _describe_fields(section, field_type)


def _describe_fields(prefix: str, schema: type) -> Iterator[str]:
    comments, hints = field_comments(schema), typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name, field_type = f"{prefix}.{field.name}", hints[field.name]
        if dataclasses.is_dataclass(field_type):
            yield from _describe_fields(name, typing.cast(type, field_type))
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "" if default is dataclasses.MISSING else f" = {default!r}"
        type_name = str(field_type) if typing.get_args(field_type) else field_type.__name__
        yield f"  {name}: {type_name}{shown}\n        {comments.get(field.name, '')}"


def field_comments(schema: type) -> dict[str, str]:
    """The trailing comment on each field's line of a dataclass and its bases: {field: meaning}."""
    bases = [base for base in schema.__bases__ if dataclasses.is_dataclass(base)]
    return {name: text for base in bases for name, text in field_comments(base).items()} | _own_comments(schema)


def _own_comments(schema: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(schema))
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    fields = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    meanings: dict[str, str] = {}
    for node in fields:
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        found = [comments[line] for line in lines if line in comments]
        if found:
            meanings[typing.cast(ast.Name, node.target).id] = " ".join(found)
    return meanings
