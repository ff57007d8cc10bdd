"""Writes the options of every stage into docs/stages/STAGE.md: python docs/stage_pages.py, or make docs.

The options are those that `--help` prints, so a page and a stage cannot disagree; tests/test_docs.py compares them.
A section of options stands on one page only; the other stages that read it link there.
"""

import contextlib
import io
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "stages"
# Section -> the page that shows its options.
OWNERS = {
    "run": "chain",
    "data": "prepare_data",
    "motion": "train_motion",
    "vae": "train_vae",
    "cache": "cache_latents",
    "latte": "train_latte",
    "ablation": "ablate",
}
ONLY_COMMAND = ("doctor",)  # stages without options of their own
ARGUMENTS = {"benchmark": ["cache", "--help"]}  # of its three kinds, the one that reads all sections
BEGIN, END = "<!-- options: written by docs/stage_pages.py -->", "<!-- end of options -->"
OPTION = re.compile(
    r"^  (?P<name>[a-z]\w*\.\S+): (?P<type>[^=\n]+?)(?: = (?P<default>.*))?\n {8}(?P<meaning>.*)$", re.M
)


@dataclass(frozen=True)
class Option:
    """One line of --help."""

    name: str  # with its section: data.root
    type: str
    default: str  # as Python writes it
    meaning: str

    @property
    def section(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]


def stage_names() -> list[str]:
    """Every stage in pipelines/, by name."""
    return sorted(path.stem for path in (ROOT / "pipelines").glob("*.py") if path.stem != "__init__")


def stage_options(stage: str) -> list[Option]:
    """The options that `python pipelines/STAGE.py --help` prints, in its order."""
    script, printed = ROOT / "pipelines" / f"{stage}.py", io.StringIO()
    arguments = [str(script), *ARGUMENTS.get(stage, ["--help"])]
    ends = contextlib.suppress(SystemExit)  # as --help does
    with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(printed), ends:
        runpy.run_path(str(script), run_name="__main__")
    return [Option(**match.groupdict(default="")) for match in OPTION.finditer(printed.getvalue())]


def options_text(stage: str) -> str:
    """What stands between the markers of a stage's page."""
    options = stage_options(stage)
    sections = list(dict.fromkeys(option.section for option in options))
    own = [section for section in sections if OWNERS.get(section, section) == stage]
    others = [f"[`{section}`]({OWNERS.get(section, section)}.md#options)" for section in sections if section not in own]
    lines = [f"It also reads the options of {_listed(others)}.", ""] if others else []
    if own:
        lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(option) for option in options if option.section in own]
    return "\n".join(lines).rstrip()


def with_options(page: str, stage: str) -> str:
    """A page's text with the options between its markers made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"docs/stages/{stage}.md lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{options_text(stage)}\n\n{END}{after}"


def _row(option: Option) -> str:
    cells = (f"`{option.name}`", f"`{option.type}`", f"`{option.default}`", option.meaning)
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


if __name__ == "__main__":
    for name in stage_names():
        if name not in ONLY_COMMAND:
            file = PAGES / f"{name}.md"
            file.write_text(with_options(file.read_text(encoding="utf-8"), name), encoding="utf-8")
