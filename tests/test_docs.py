"""The pages: links lead somewhere, generated parts are up to date, claims name their figures, commands fit the schema.

What the commands and the Python of the pages do: test_docs_run.py.
"""

import re
import subprocess
from pathlib import Path

import pytest
from pages import PAGES, ROOT, anchors, blocks, links, name

from docs import architecture_picture, stage_pages
from pipelines.run.run_config import RunConfig

README = (ROOT / "README.md").read_text()
every_page = pytest.mark.parametrize("page", PAGES, ids=name)
# A measured number: with its spread, with decimals, with a unit, or as a share. Versions and sizes of files are none.
FIGURE = re.compile(r"±|\b\d+\.\d+\b|\b\d+ (dB|s|seconds|minutes|GB)\b|\b1/\d+")
NOT_MEASURED = ("Install", "Limits", "Citation")  # sections of the README


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if not target.startswith(("http:", "https:")):
            file = (page.parent / target).resolve() if target else page
            assert file.is_relative_to(ROOT) and file.exists(), f"{link} leads nowhere"
            assert not anchor or anchor in anchors(file), f"{link}: no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            targets = [link.partition("#")[0] for link in links(page) if not link.startswith("http")]
            waiting += [file for target in targets if target and (file := (page.parent / target).resolve()).is_file()]
    assert sorted(map(name, set(PAGES) - reached)) == []


@pytest.mark.parametrize("stage", stage_pages.stage_names())
def test_options_of_a_page_are_those_of_the_stage(stage: str) -> None:
    page = (stage_pages.PAGES / f"{stage}.md").read_text()
    if stage not in stage_pages.ONLY_COMMAND:
        assert page == stage_pages.with_options(page, stage), "options have changed: make docs"
        assert page.count("\n| `") >= 1 or stage == "report"


def test_options_are_read_whole() -> None:
    found = {option.name: option for option in stage_pages.stage_options("prepare_data")}
    assert {f"run.{field}" for field in RunConfig.__dataclass_fields__} <= found.keys()
    assert found["run.seed"] == stage_pages.Option("run.seed", "int", "0", "seed of every random draw of the run")
    assert found["data.root"].default == "''" and "embedded moving shapes" in found["data.root"].meaning


def test_the_picture_is_up_to_date_and_names_files_that_exist() -> None:
    assert architecture_picture.PICTURE.read_text() == architecture_picture.picture(), "make docs"
    names = architecture_picture.named_files()
    assert len(names) > 15
    for file in names:
        assert (ROOT / file).is_file(), f"the picture names {file}"


def test_the_readme_is_short_and_begins_with_what_users_need() -> None:
    assert len(README.splitlines()) < 150
    first_screen = README.partition("\n## ")[0]
    places = [first_screen.index(mark) for mark in ("![", "```bash", "```python", "\n|")]
    assert places == sorted(places), "picture, shell, Python, table"
    shell, python = blocks(ROOT / "README.md")[:2]
    assert len(shell.lines) == 3 and len(python.lines) <= 10
    for limit in ("not been run on a GPU", "no result on UCF-101"):
        assert limit in README


def test_every_figure_of_the_readme_names_its_page() -> None:
    checked = 0
    for section in README.split("\n## "):
        if section.startswith(NOT_MEASURED):
            continue
        paragraphs = re.sub(r"```.*?```", "", section, flags=re.S).split("\n\n")
        for paragraph, following in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
            near = paragraph + (following if paragraph.startswith("|") else "")
            if FIGURE.search(re.sub(r"\]\([^)]*\)", "]", paragraph)):
                checked += 1
                pages = re.findall(r"\((docs/results/[\w.]+)\)", near)
                assert pages, f"figures without a page: {paragraph}"
                known = "".join((ROOT / page).read_text() for page in pages)
                for spread in re.findall(r"\d+\.\d+ ± \d+\.\d+", paragraph):
                    assert spread in known, f"{spread} does not stand in {pages}"
    assert checked >= 4


@every_page
def test_shell_blocks_are_shell(page: Path) -> None:
    for block in blocks(page):
        if block.language == "bash":
            checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
            assert checked.returncode == 0, checked.stderr


@every_page
def test_named_make_targets_and_files_exist(page: Path) -> None:
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    if page.name.startswith("add_a_"):
        return  # names the files that its reader adds
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.M):
        assert f"\n{target}:" in makefile, f"make {target}"
    for file in re.findall(r"(?<![\w/.=])((?:configs|pipelines|vae|latte|tests|docs)/[\w/]+\.(?:py|yaml|md))", text):
        assert (ROOT / file).is_file() or (page.parent / file).is_file(), f"{file} is named, but does not exist"
