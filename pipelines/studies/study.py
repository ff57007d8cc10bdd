"""What a study is and how it becomes a command: python -m pipelines.studies.NAME [study.key=value ...]

A study measures some cases and writes a row for each into docs/results/NAME.json and the tables of NAME.md. Rows that
are missing, and rows that other code made, are measured; the others stay. The same command goes on after a kill.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pipelines.run.config import describe_options, load_config
from pipelines.run.folder import StageFolder, git_commit
from pipelines.run.stage import require_writable
from pipelines.studies.code_hash import REPOSITORY, hash_code
from pipelines.studies.result_rows import (
    Row,
    Tables,
    describe_machine,
    mark_stale,
    merge_row,
    read_rows,
    write_page,
    write_rows,
)

RESULTS = "docs/results"


@dataclass(frozen=True)
class StudySection:
    """The options of every study."""

    clips: str = "../shared/data"  # folder of real clips; docs/results/README.md says what it must hold
    tiny: bool = False  # as little as can be done, in seconds: the numbers mean nothing; study.results must be given
    results: str = RESULTS  # where NAME.json and NAME.md are written
    work: str = "runs/studies"  # where runs are kept: below it NAME/ and the hash of the code that makes them
    only: tuple[str, ...] = ()  # measure only the cases with one of these values among their arguments; empty = all


@dataclass(frozen=True)
class StudyOptions:
    """What a study's command line can set."""

    study: StudySection = field(default_factory=StudySection)


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    arguments: Mapping[str, Any]  # what distinguishes it from the other cases
    seed: int | None = None  # None where nothing is drawn

    @property
    def key(self) -> str:
        """As the key of its row."""
        return Row(self.arguments, self.seed, {}, None, None, None).key


@dataclass(frozen=True)
class Measured:
    """What a case gave."""

    case: Case
    values: Mapping[str, Any]
    commit: str = ""  # of the run that gave it; empty = today's


@dataclass(frozen=True)
class Study:
    """One page of docs/results."""

    name: str  # of its module, its JSON and its page
    code: tuple[str, ...]  # rooms, modules and files of options that its numbers depend on
    cases: Callable[[StudySection], Sequence[Case]]  # all that it measures
    measure: Callable[[StudySection, Path, Sequence[Case]], Iterator[Measured]]  # options, folder for runs, what to do
    tables: Tables  # {name in the page: table}
    command: str = ""  # what makes it; empty = python -m pipelines.studies.NAME


def run(study: Study, options: StudySection) -> None:
    """Measure what is missing or stale, and write rows and page after each case.

    Raises ValueError where tiny numbers would take the place of real ones, and where study.only names nothing.
    """
    if options.tiny and (REPOSITORY / RESULTS).resolve() == Path(options.results).resolve():
        raise ValueError(f"study.tiny gives numbers without a meaning, not for {RESULTS}: set study.results=FOLDER")
    results, code = Path(options.results), hash_code(study.code)
    require_writable(results)
    results.mkdir(parents=True, exist_ok=True)
    file = results / f"{study.name}.json"
    rows = mark_stale(read_rows(file), code)
    fresh = {row.key for row in rows if not row.stale}
    waiting = [case for case in chosen_cases(study, options) if case.key not in fresh]
    print(f"{study.name}: {len(waiting)} cases to measure", file=sys.stderr, flush=True)
    with StageFolder(options.work, study.name, code[:8] + ("-tiny" if options.tiny else "")).open({}) as folder:
        for measured in study.measure(options, folder.path, waiting) if waiting else ():
            commit, case = measured.commit or git_commit(), measured.case
            row = Row(case.arguments, case.seed, measured.values, commit, describe_machine(), code)
            rows = merge_row(rows, row)
            write_rows(file, study.name, rows, study.command)
            write_page(page_of(study, options), results / f"{study.name}.md", study.tables, rows)
    write_rows(file, study.name, rows, study.command)
    write_page(page_of(study, options), results / f"{study.name}.md", study.tables, rows)


def chosen_cases(study: Study, options: StudySection) -> list[Case]:
    """The cases of a study that study.only names."""
    cases = study.cases(options)
    if not options.only:
        return list(cases)
    values = {str(value) for case in cases for value in case.arguments.values()}
    for name in options.only:
        if name not in values:
            raise ValueError(f"study.only names {name!r}, but the cases are about {', '.join(sorted(values))}")
    return [case for case in cases if {str(value) for value in case.arguments.values()} & set(options.only)]


def page_of(study: Study, options: StudySection) -> Path:
    """The page whose tables are written: the one that stands with the results, else the repository's."""
    own = Path(options.results) / f"{study.name}.md"
    return own if own.exists() else REPOSITORY / RESULTS / f"{study.name}.md"


def main(study: Study, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a study from the command line and exit: 0 done, 2 for what the user can mend, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("--help", "-h") for argument in given):
        print(f"python -m pipelines.studies.{study.name} [study.key=value ...]\n")
        print(f"Options (type = default, then their meaning):\n{describe_options(StudyOptions, ['study'])}")
        sys.exit(0)
    try:
        options = load_config(StudyOptions, given, REPOSITORY / "configs" / "studies", base=StudyOptions())
        run(study, options.study)
    except ValueError as error:
        print(f"{study.name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{study.name}: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
