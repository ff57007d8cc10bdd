"""Studies: every page's command at tiny size, pages and marks that agree with rows and code, three sets of files."""

import ast
import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_clips import write_clips

from pipelines.studies import code_hash
from pipelines.studies.clip_sets import FILES, read_sets
from pipelines.studies.code_hash import hash_code
from pipelines.studies.result_rows import EARLIER, Row, fill_page, mark_stale, markdown_table, merge_row, read_rows
from pipelines.studies.stale import STUDIES, load_study
from pipelines.studies.study import Case, Measured, Study, StudySection, chosen_cases, run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
MEASURED = [name for name in STUDIES if name != "faults"]  # the fault suite is a program of its own


@pytest.fixture(scope="module")
def made_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.studies
@pytest.mark.parametrize("name", MEASURED)
def test_the_command_of_every_page_runs_at_tiny_size(name: str, made_clips: Path, tmp_path: Path) -> None:
    study = load_study(name)
    options = StudySection(str(made_clips), tiny=True, results=str(tmp_path), work=str(tmp_path / "work"))
    run(study, options)
    rows = read_rows(tmp_path / f"{name}.json")
    assert {row.key for row in rows} == {case.key for case in study.cases(options)}
    for row in rows:
        assert row.values and row.commit and row.machine and row.code == hash_code(study.code) and not row.stale
    page = (tmp_path / f"{name}.md").read_text()
    assert page == fill_page(page, study.tables, rows)
    assert EARLIER not in page


# ---------------------------------------------------------------------- what stands in the repository


def test_every_result_has_a_page_and_a_line_in_the_list_and_the_other_way_round() -> None:
    results, pages = ({path.stem for path in RESULTS.glob(f"*.{kind}")} for kind in ("json", "md"))
    assert results == pages - {"README"} == set(STUDIES)
    listed = (RESULTS / "README.md").read_text()
    assert all(f"| [{name}.md]({name}.md) |" in listed for name in STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_pages_and_marks_agree_with_rows_and_code(name: str) -> None:
    """Where this fails: python -m pipelines.studies.stale."""
    study, rows = load_study(name), read_rows(RESULTS / f"{name}.json")
    page = (RESULTS / f"{name}.md").read_text()
    assert mark_stale(rows, hash_code(study.code)) == rows
    assert page == fill_page(page, study.tables, rows)
    content = json.loads((RESULTS / f"{name}.json").read_text())
    assert content["study"] == name
    assert f"```bash\n{content['command']}\n```" in page.split("<!-- table")[0], "a page begins with its command"


def test_the_sets_of_files_share_no_source() -> None:
    with (ROOT / FILES).open() as file:
        lines = list(csv.DictReader(file))
    sets = {name: {line["source"] for line in lines if line["set"] == name} for name in ("learn", "judge", "test")}
    assert not sets["learn"] & sets["judge"] and not sets["judge"] & sets["test"] and not sets["learn"] & sets["test"]
    assert {name: len(files) for name, files in read_sets().items()} == {"learn": 52, "judge": 15, "test": 15}
    assert len({line["path"] for line in lines}) == len(lines)
    tops = {name: sorted(Path(path).parts[0] for path in files) for name, files in read_sets().items()}
    assert tops["judge"] == tops["test"], "the two sets that are scored on are balanced alike"


# ---------------------------------------------------------------------- the frame


def counting_study(measured: list[str]) -> Study:
    def measure(options: StudySection, work: Path, waiting: list[Case]) -> Iterator[Measured]:
        for case in waiting:
            measured.append(case.arguments["name"])
            yield Measured(case, {"length": len(case.arguments["name"])})

    def table(rows: list[Row]) -> str:
        return markdown_table(["name", "length"], [([row], [row.arguments["name"], "4"]) for row in rows])

    cases = [Case({"name": "blue"}, 0), Case({"name": "gold"}, 0)]
    return Study("counting", ("pipelines.studies.study",), lambda options: cases, measure, {"lengths": table})


def test_only_what_is_missing_or_stale_is_measured(tmp_path: Path) -> None:
    measured: list[str] = []
    study = counting_study(measured)
    options = StudySection(results=str(tmp_path), work=str(tmp_path / "work"))
    (tmp_path / "counting.md").write_text("A page.\n\n<!-- table: lengths -->\n<!-- end of table -->\n")
    run(study, replace(options, only=("gold",)))
    assert measured == ["gold"]
    run(study, options)
    assert measured == ["gold", "blue"]
    run(study, options)
    assert measured == ["gold", "blue"]
    content = json.loads((tmp_path / "counting.json").read_text())
    content["rows"][0]["code"] = None
    (tmp_path / "counting.json").write_text(json.dumps(content))
    run(study, replace(options, only=("blue",)))
    assert measured == ["gold", "blue"]
    assert f"gold | 4 | {content['rows'][0]['commit'][:7]}" in (tmp_path / "counting.md").read_text()
    assert EARLIER in (tmp_path / "counting.md").read_text()
    run(study, options)
    assert measured == ["gold", "blue", "gold"]
    assert [row.stale for row in read_rows(tmp_path / "counting.json")] == [False, False]


def test_what_a_user_can_mend_is_said_in_one_sentence(tmp_path: Path) -> None:
    study = counting_study([])
    with pytest.raises(ValueError, match="set study.results=FOLDER"):
        run(study, StudySection(tiny=True, results=str(RESULTS)))
    with pytest.raises(ValueError, match="study.only names 'red'.*blue, gold"):
        chosen_cases(study, StudySection(only=("red",)))
    with pytest.raises(ValueError, match="set study.clips to a folder"):
        run(load_study("vae_ablation"), StudySection(str(tmp_path), results=str(tmp_path), work=str(tmp_path / "work")))


def test_a_row_takes_the_place_of_the_one_with_its_arguments_and_seed() -> None:
    rows = [Row({"a": 1}, seed, {"x": seed}, "c", "m", "h") for seed in (0, 1)]
    merged = merge_row(rows, replace(rows[1], values={"x": 7}))
    assert [row.values["x"] for row in merged] == [0, 7]
    assert len(merge_row(rows, replace(rows[1], arguments={"a": 2}))) == 3


def facts(text: str) -> list:
    return list(code_hash._facts(ast.parse(text)))


def test_comments_and_docstrings_change_no_hash() -> None:
    code = 'def f(x: int) -> int:\n    """Twice."""\n    return 2 * x\n'
    assert facts(code) == facts(code.replace("Twice", "Two times").replace("2 * x", "2 * x  # why"))
    assert facts(code) != facts(code.replace("2 * x", "x * 2"))
    assert facts(code) != facts(code.replace("int) ->", "float) ->"))
    assert hash_code(["vae", "configs/demo.yaml"]) != hash_code(["vae"])
    with pytest.raises(ValueError, match="'pipelines.nothing'"):
        hash_code(["pipelines.nothing"])
