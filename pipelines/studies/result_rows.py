"""The rows of docs/results/NAME.json, keyed by their arguments, and the tables of NAME.md written from them."""

import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.run.folder import write_json, write_text
from pipelines.run.ranks import choose_device

EARLIER = "made by earlier code"
TABLE = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """What one setting gave."""

    arguments: Mapping[str, Any]  # what was measured, such as {"row": "default"}
    seed: int | None  # None where nothing is drawn
    values: Mapping[str, Any]  # what was found
    commit: str | None  # of the run that found it
    machine: str | None  # in words
    code: str | None  # hash of the code that found it; None for numbers older than these hashes
    stale: bool = False  # whether that code differs from today's

    @property
    def key(self) -> str:
        """What the row is found by."""
        return json.dumps([self.arguments, self.seed], sort_keys=True)


Rows = Sequence[Row]
Tables = Mapping[str, Callable[[Rows], str]]


def read_rows(path: Path) -> list[Row]:
    """The rows of a result; none where there is no such file."""
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def write_rows(path: Path, study: str, rows: Rows, command: str = "") -> None:
    """Write a result: the study, its command (empty = its module), and a row per setting, in the order of `rows`."""
    entries = [{name: value for name, value in asdict(row).items() if name != "stale" or value} for row in rows]
    write_json(path, {"study": study, "command": command or f"python -m pipelines.studies.{study}", "rows": entries})


def mark_stale(rows: Rows, code: str) -> list[Row]:
    """The same rows, each with whether other code than `code` made it."""
    return [replace(row, stale=row.code != code) for row in rows]


def merge_row(rows: Rows, row: Row) -> list[Row]:
    """The rows with `row` in the place of the one with the same arguments and seed, or after the last."""
    keys = [other.key for other in rows]
    if row.key not in keys:
        return [*rows, row]
    return [row if key == row.key else other for key, other in zip(keys, rows, strict=True)]


def fill_page(text: str, tables: Tables, rows: Rows) -> str:
    """A page with every table between `<!-- table: NAME -->` and `<!-- end of table -->` written from `rows`.

    Raises ValueError for a table that the page names and the study lacks, or the other way round.
    """
    named = [match["name"] for match in TABLE.finditer(text)]
    if sorted(named) != sorted(tables):
        raise ValueError(f"the page has the tables {named}, but the study writes {sorted(tables)}")
    return TABLE.sub(lambda match: f"{match[1]}{tables[match['name']](rows)}\n{match[3]}", text)


def write_page(template: Path, target: Path, tables: Tables, rows: Rows) -> None:
    """Fill the page `template` and write it to `target`, which may be the same file."""
    write_text(target, fill_page(template.read_text(encoding="utf-8"), tables, rows))


def markdown_table(head: Sequence[str], lines: Sequence[tuple[Rows, Sequence[str]]]) -> str:
    """A table whose last column names the commits of the rows behind each line, and says where they are stale."""
    shown = [[*head, "commit"], ["---"] * (len(head) + 1)]
    shown += [[*cells, origin(rows)] for rows, cells in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)


def origin(rows: Rows) -> str:
    """Commits of some rows in short, with "made by earlier code" where one of them was."""
    commits = ", ".join(dict.fromkeys(short_commit(row.commit) for row in rows))
    return f"{commits} ({EARLIER})" if any(row.stale for row in rows) else commits


def short_commit(commit: str | None) -> str:
    """Seven characters of a commit, with the mark of changes that it may carry."""
    if commit is None:
        return "not recorded"
    return commit[:7] + ("+changes" if commit.endswith("+changes") else "")


def round_floats(tree: Any, digits: int = 5) -> Any:
    """Nested dicts and lists with their floats rounded, as results are written."""
    if isinstance(tree, Mapping):
        return {name: round_floats(value, digits) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [round_floats(value, digits) for value in tree]
    return round(tree, digits) if isinstance(tree, float) else tree


def describe_machine() -> str:
    """This machine in words: processor, cores, GPU where one is used, version of torch."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        model = found[1].strip() if found else model
    parts = [model, f"{os.cpu_count()} cores"]
    if choose_device("auto").type == "cuda":
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])
