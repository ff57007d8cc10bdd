"""The pages that users read, taken apart: code blocks, commands, links, headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.parts.weights.sources import GROUPS, SOURCES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
STAGE_FILE = re.compile(r"pipelines/(\w+)\.py")
ARGUMENT = re.compile(r"[a-z_]+(\.\w+)+=.*|\S+\.yaml")  # section.key=value or a configuration
# Of benchmark its kind, of weights the names of files: words that are no options.
KINDS = ("vae", "cache", "latte", *SOURCES, *GROUPS)
RUN_BEFORE = re.compile(r"(\.venv/bin/)?python ")  # how a command begins that one process runs; else a launcher does
SHELL_VARIABLES = {"$NUMBER": "3", "$SLURM_ARRAY_TASK_ID": "3"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its lines without comments, continued ones joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


@dataclass(frozen=True)
class Command:
    """A call of a stage, as a page shows it."""

    stage: str
    arguments: tuple[str, ...]
    is_alone: bool  # one process, and no launcher such as torchrun before it


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    return [Block(language, text) for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def stage_command(line: str) -> Command | None:
    """The call of a stage in a line of shell; None where there is none. All its words must be arguments of a stage."""
    found = STAGE_FILE.search(line)
    if not found:
        return None
    words = shlex.split(line, comments=True)
    script = next(place for place, word in enumerate(words) if found[0] in word)
    given = [SHELL_VARIABLES.get(word, word) for word in words[script + 1 :]]
    for variable, value in SHELL_VARIABLES.items():
        given = [word.replace(variable, value) for word in given]
    is_alone = bool(RUN_BEFORE.match(line))
    arguments = [word for word in given if ARGUMENT.fullmatch(word) or word in KINDS]
    assert not is_alone or given == arguments, f"{line}: not arguments of a stage: {set(given) - set(arguments)}"
    return Command(found[1], tuple(arguments), is_alone)


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures, outside code."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'<img src="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may end in, as GitHub makes it."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
