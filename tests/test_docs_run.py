"""What the pages show is done: their Python and the commands of stages run on a nano run, in the order of the page.

A command that needs several processes, a cluster, hours, or a model of full size is carried out up to its dry run.
"""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from nano_run import NANO, nano
from pages import KINDS, PAGES, ROOT, Block, Command, blocks, name, stage_command

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.samples import sample_folder
from pipelines.run.config import load_config
from pipelines.studies.benchmarks.options import Benchmark

DEMO = "configs/demo.yaml"
# What a page calls by a name that stands for the reader's own: where it lies for the tests.
OWN_VIDEOS = ("/data/holiday.mp4", "/data/a.mp4", "/data/b.mp4", "clip.mp4")
OWN_FOLDERS = ("/data/my_clips", "/data/UCF-101", "/data/ucfTrainTestlist")
# Configurations whose commands run on clips of the reader's own, and the stages of them that are small enough.
WITH_CLIPS = {"configs/small_64.yaml": ("prepare_data",), "configs/ucf101_128.yaml": ("prepare_data", "evaluate")}
# Stages that run here: not `chain`, which made the nano run, nor what measures and trains for hours.
SMALL_STAGES = ("prepare_data", "train_motion", "train_vae", "cache_latents", "train_latte")
SMALL_STAGES += ("sample", "evaluate", "report", "reconstruct", "export")
# Stages whose dry run looks at more than the configuration: for them its arguments are read, no more.
SCHEMAS = {"doctor": Experiment, "benchmark": Benchmark}
# On top of nano.yaml: the reader's clips are too short for a stride, and few.
SMALLER = ("data.frame_stride=1", "evaluate.reconstruction_clips=2", "evaluate.proxy_clips=0")
IN_THEIR_OWN_TESTS = ("docs/results",)  # the commands of studies: tests/studies
RECIPES = ("docs/add_a_",)  # their Python is a file to be added, and their commands are for after that
RUN_PAGES = [page for page in PAGES if not name(page).startswith(IN_THEIR_OWN_TESTS)]


@dataclass(frozen=True)
class Reader:
    """Somebody who follows the pages: a folder of runs with a finished one, a data set, and a video."""

    runs: Path
    clips: Path
    video: Path
    samples: Path  # a folder of anybody's videos

    def own(self, text: str) -> str:
        """The words of a page -> what this reader has."""
        names = dict.fromkeys(OWN_FOLDERS, self.clips) | dict.fromkeys(OWN_VIDEOS, self.video)
        names |= {"runs/demo": self.runs / "nano", "runs/mine": self.runs / "twin", "my_model": self.runs / "my_model"}
        names |= {"evaluate.samples=FOLDER": f"evaluate.samples={self.samples}", "runs=[runs]": f"runs=[{self.runs}]"}
        names |= {"evaluate.vae=FOLDER": f"evaluate.vae={self.runs / 'nano'}"}
        for word, ours in names.items():
            text = text.replace(word, str(ours))
        return text

    def arguments(self, command: Command) -> tuple[str, ...]:
        """At nano size; () where that is impossible."""
        files = [word for word in command.arguments if word.endswith(".yaml")]
        given = [self.own(word) for word in command.arguments if not word.endswith(".yaml")]
        root = f"run.root={self.runs}"
        if not command.is_alone or command.stage not in SMALL_STAGES or "run.dry_run=true" in given:
            return ()
        if files == [DEMO]:
            return (str(NANO), root, *given)
        if len(files) == 1 and command.stage in WITH_CLIPS.get(files[0], ()):
            run_name = f"run.name={Path(files[0]).stem}"
            return (files[0], str(NANO), run_name, *given, *SMALLER, root)
        return ()


@pytest.fixture(scope="module")
def reader(nano_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """With copies of the nano run and of its videos."""
    folder, threads = tmp_path_factory.mktemp("reader"), torch.get_num_threads()
    for run in ("nano", "twin"):
        shutil.copytree(nano_root / "nano", folder / "runs" / run)
    clips = folder / "clips"
    shutil.copytree(nano_root / "nano" / "prepare_data" / "moving_shapes", clips)
    samples = sample_folder(nano(folder / "runs")) / "mp4"
    yield Reader(folder / "runs", clips, sorted(clips.rglob("*.avi"))[0], samples)
    torch.set_num_threads(threads)  # nano.yaml sets one


def call(stage: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python pipelines/STAGE.py ARGUMENTS` in this process; it must end well."""
    monkeypatch.setattr(sys, "argv", [f"pipelines/{stage}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "pipelines" / f"{stage}.py"), run_name="__main__")
    assert end.value.code == 0, f"{stage} {' '.join(arguments)}"


def dry_run(command: Command, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as it stands, up to where its work would begin."""
    arguments = tuple(reader.own(word) for word in command.arguments)
    if command.stage in SCHEMAS:
        load_config(SCHEMAS[command.stage], [word for word in arguments if word not in KINDS], ROOT / DEMO)
    else:
        call(command.stage, (*arguments, "run.dry_run=true", f"run.root={reader.runs}"), monkeypatch)


def commands(block: Block) -> list[Command]:
    """All calls of stages in a block of shell, or in the pods of a Kubernetes manifest."""
    if block.language == "bash":
        return [command for line in block.lines if (command := stage_command(line))]
    if block.language == "yaml":
        pods = [part["spec"]["template"] for part in yaml.safe_load_all(block.text) if part["kind"] == "Job"]
        lines = [" ".join(pod["spec"]["containers"][0]["args"]) for pod in pods]
        return [command for line in lines if (command := stage_command(line))]
    return []


def follow(page: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the page shows, from top to bottom."""
    is_recipe = name(page).startswith(RECIPES)
    for block in blocks(page):
        if block.language == "python" and is_recipe:  # in a process of its own: what it declares must not stay
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-c", block.text], cwd=ROOT, env=environment, check=True)
        elif block.language == "python":
            exec(compile(reader.own(block.text), name(page), "exec"), {})
        for command in commands(block):
            if is_recipe:
                load_config(Experiment, command.arguments, ROOT / DEMO)
            elif arguments := reader.arguments(command):
                call(command.stage, arguments, monkeypatch)
            else:
                dry_run(command, reader, monkeypatch)


WITH_CODE = [page for page in RUN_PAGES if any(block.language in ("bash", "python", "yaml") for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_what_a_page_shows_works(page: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    follow(page, reader, monkeypatch)


def test_most_of_it_really_runs(reader: Reader) -> None:
    """Every stage of the chain, and reconstruct and export, at least once."""
    shown = [command for page in RUN_PAGES for block in blocks(page) for command in commands(block)]
    assert len(shown) > 30
    stages = {command.stage for command in shown if reader.arguments(command)}
    assert stages == set(SMALL_STAGES)


def test_a_command_that_no_stage_understands_is_noticed(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="--steps"):
        stage_command("python pipelines/sample.py configs/demo.yaml --steps 3")
    wrong = Command("sample", ("configs/demo.yaml", "sample.stepps=3"), is_alone=True)
    with pytest.raises(AssertionError, match="stepps"):
        call("sample", reader.arguments(wrong), monkeypatch)
    with pytest.raises(AssertionError, match="stepps"):
        dry_run(replace(wrong, is_alone=False), reader, monkeypatch)
