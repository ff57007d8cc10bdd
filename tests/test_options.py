"""Every option of a YAML is read by the code, says what it means, and refuses a word that it does not know."""

import dataclasses
import importlib.util
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from option_reads import fields_of, unread

from pipelines.inputs.experiment import Experiment
from pipelines.run.config import field_comments, load_config
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.benchmarks.options import Benchmark
from pipelines.studies.study import StudyOptions

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = (Experiment, AblationStudy, Benchmark, StudyOptions)
STUDIES = ROOT / "pipelines" / "studies"
PRODUCT = [path for room in ("vae", "latte", "pipelines") for path in (ROOT / room).rglob("*.py")]
PRODUCT = [str(path) for path in PRODUCT if STUDIES not in path.parents]
# Read where the type checker sees no type.
READ_UNTYPED = {
    "AutoencoderConfig.deco_vae",  # vae/registry.py: getattr(config, config.name)
    "AutoencoderConfig.plain_vae",
    "AutoencoderConfig.concat_vae",
    "RunConfig.dry_run",  # pipelines/run/stage.py: the section `run` of any schema
    "RunConfig.threads",
    "RunConfig.cpu_processes",
}
# What a user may write freely, such as a path or a name; all other texts are one word out of a few.
FREE_TEXTS = {
    *("run.name", "run.root", "data.root", "data.splits"),
    *("motion.init_from", "vae.init_from", "vae.motion_from", "latte.init_from"),
    *("cache.vae", "sample.vae", "sample.latte", "sample.guide", "sample.classes", "sample.first_frame"),
    *("reconstruct.input", "reconstruct.vae", "reconstruct.compare_with", "reconstruct.exchange"),
    *("evaluate.samples", "evaluate.vae", "weights.folder"),
    *("report.runs", "report.compare", "export.folder"),
    *("study.clips", "study.results", "study.work", "study.only"),
    # of rows that the study plans together: it refuses names that are none of its rows, files or models
    *("ablation.only", "ablation.reference", "ablation.groups", "ablation.overlay_folders"),
    *("benchmark.models", "benchmark.latte_models", "benchmark.options"),
}


def test_every_option_of_an_experiment_is_read() -> None:
    """By the product: what only a study reads is no option of its users."""
    assert unread([Experiment], PRODUCT) - READ_UNTYPED == set()


def test_every_option_of_a_study_is_read() -> None:
    files = [*STUDIES.rglob("*.py"), *(ROOT / "pipelines" / name for name in ("ablate.py", "benchmark.py"))]
    files.append(ROOT / "pipelines" / "run" / "config.py")  # what load_config returns
    own = {f"{schema.__name__}.{name}" for schema, name in fields_of(*SCHEMAS) - fields_of(Experiment)}
    assert len(own) > 30
    assert unread(SCHEMAS, [str(file) for file in files]) & own == set()


PLANTED = """
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Loop:
    steps: int = 1
    num_workers: int = 0  # nothing reads it of a Loop
    checked: int = 1  # only its own check does

    def __post_init__(self) -> None:
        if self.checked < 0:
            raise ValueError("checked is below 0")

@dataclass(frozen=True)
class LongLoop(Loop):
    seconds: float = 0.0

@dataclass(frozen=True)
class Reader:
    num_workers: int = 0

@dataclass(frozen=True)
class Options:
    loop: LongLoop = field(default_factory=LongLoop)
    reader: Reader = field(default_factory=Reader)
    idle: int = 0

class Task:
    def __init__(self, options: Options) -> None:
        self.loop, reader = options.loop, options.reader
        print(reader.num_workers, "idle")

    def run(self) -> float:
        loop = self.loop
        return sum(range(loop.steps)) + loop.seconds
"""


def imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, path.stem, module)
    specification.loader.exec_module(module)
    return module


def test_a_planted_option_that_nothing_reads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another class has an option of that name, and where the name is a word of a text."""
    path = tmp_path / "planted.py"
    path.write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    schema = imported(path, monkeypatch).Options
    assert unread([schema], [path.name]) == {"Loop.num_workers", "Loop.checked", "Options.idle"}


def test_every_option_says_what_it_means() -> None:
    for schema, name in sorted(fields_of(*SCHEMAS), key=str):
        if schema not in SCHEMAS:
            assert field_comments(schema).get(name), f"{schema.__name__}.{name} has no comment that says what it means"


def texts(schema: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Full name of every option that holds a text or several, and whether it is several."""
    for name, kind in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            yield from texts(kind, f"{prefix}{name}.")
        elif kind in (str, tuple[str, ...]):
            yield f"{prefix}{name}", kind is not str


TEXTS = {option: (schema, several) for schema in reversed(SCHEMAS) for option, several in texts(schema)}


@pytest.mark.parametrize("option", sorted(TEXTS.keys() - FREE_TEXTS))
def test_an_unknown_word_is_refused_when_the_yaml_is_read(option: str, tmp_path: Path) -> None:
    schema, several = TEXTS[option]
    path = tmp_path / "wrong.yaml"
    path.write_text("".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(option.split("."))))
    path.write_text(f"{path.read_text().rstrip()} {'[nonsense]' if several else 'nonsense'}\n")
    with pytest.raises(ValueError, match=rf"^{option} .*'nonsense'"):
        load_config(schema, [str(path)], path)


def test_the_tables_name_options_that_exist() -> None:
    assert set(TEXTS) >= FREE_TEXTS
    assert {"vae.plain_vae.bottleneck", "latte.attention", "sample.method", "cache.precision"} <= TEXTS.keys()
    assert {f"{schema.__name__}.{name}" for schema, name in fields_of(Experiment)} >= READ_UNTYPED
