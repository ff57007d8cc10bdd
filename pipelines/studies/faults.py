"""The page of the fault suite: tests/faults/run.py (make faults) measures its rows and writes them by this study."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.run.folder import git_commit
from pipelines.studies.code_hash import REPOSITORY, hash_code
from pipelines.studies.result_rows import (
    Row,
    Rows,
    describe_machine,
    mark_stale,
    markdown_table,
    merge_row,
    read_rows,
    write_page,
    write_rows,
)
from pipelines.studies.study import RESULTS, Case, Measured, Study, StudySection

HEAD = ["", "fault", "trials that ended as they must", "asked for", "figures", "seconds"]


def cases(options: StudySection) -> list[Case]:
    """None here: the suite is a program of its own."""
    return []


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Nothing to measure here."""
    yield from ()


def place(name: str) -> tuple[bool, int]:
    """F1, F2, ..., then those without a number."""
    return not name[1:].isdigit(), int(name[1:]) if name[1:].isdigit() else 0


def passed(found: Any) -> str:
    """The figure of a row as text."""
    return f"not run: {found['not_run']}" if found["not_run"] else f"{found['passed']}/{found['trials']}"


def table(rows: Rows) -> str:
    """A line per fault."""
    lines = []
    for row in sorted(rows, key=lambda row: place(row.arguments["fault"])):
        found = row.values
        figures = "; ".join(f"{name}: {value}" for name, value in found["figures"].items())
        cells = [row.arguments["fault"], found["what"], passed(found), found["target"], figures]
        lines.append(([row], [*cells, f"{found['seconds']:.0f}"]))
    return markdown_table(HEAD, lines)


def record(fault: str, values: dict[str, Any]) -> None:
    """Put what one fault came to into docs/results/faults.json and faults.md."""
    file, code = REPOSITORY / RESULTS / "faults.json", hash_code(STUDY.code)
    row = Row({"fault": fault}, None, values, git_commit(), describe_machine(), code)
    rows = merge_row(mark_stale(read_rows(file), code), row)
    write_rows(file, STUDY.name, rows, STUDY.command)
    write_page(file.with_suffix(".md"), file.with_suffix(".md"), STUDY.tables, rows)


PRODUCT = ("data", "inputs", "metrics", "parts", "run")
STUDY = Study(
    name="faults",
    code=("vae", "latte", "tests.faults", *(f"pipelines.{room}" for room in PRODUCT)),
    cases=cases,
    measure=measure,
    tables={"faults": table},
    command="make faults",
)
