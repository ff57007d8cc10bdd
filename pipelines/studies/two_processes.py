"""The demo chain in two processes beside one: python -m pipelines.studies.two_processes [study.key=value ...]

Every stage of `make demo` under `torchrun --nproc-per-node 2`, one torchrun per stage, and the same chain in one
process: with three seeds, and once with micro-batches of half a batch, which is what each of two processes sees. 50
minutes on 2 cores.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.chain import needed_stages
from pipelines.run.folder import write_json
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.experiments import CHAIN_CODE, DEMO, TINY, load_experiment
from pipelines.studies.result_rows import Row, Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

ONE, HALVED, TWO = "one process", "one process, half micro-batches", "two processes"
SEEDS = (0, 1, 2)
# half of each global batch of demo.yaml
HALVES = ("motion.loop.micro_batch_size=4", "vae.loop.micro_batch_size=2", "latte.loop.micro_batch_size=16")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TINY_STAGES, TINY_SCORES = ("prepare_data", "train_motion"), "train_motion/metrics.jsonl"


def cases(options: StudySection) -> list[Case]:
    """A case per way to run, and per seed of the plain way."""
    if options.tiny:
        return [Case({"way": way}, SEEDS[0]) for way in (ONE, TWO)]
    return [*(Case({"way": ONE}, seed) for seed in SEEDS), *(Case({"way": way}, SEEDS[0]) for way in (HALVED, TWO))]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Run what is missing and read its scores."""
    for case in waiting:
        way = case.arguments["way"]
        name = f"{way.replace(', ', '-').replace(' ', '-')}-{case.seed}"
        words = [DEMO, f"run.seed={case.seed}", *(HALVES if way == HALVED else ())]
        words += ["run.threads=1"] if way != ONE else []
        seconds = call_all(options, work, name, words, TORCHRUN if way == TWO else ())
        stage_folder = work / name / "train_motion"
        commit = json.loads((stage_folder / "provenance.json").read_text())["git_commit"]
        yield Measured(case, round_floats({"scores": scores(options, work / name), "seconds": seconds}), commit)


def call_all(
    options: StudySection, work: Path, name: str, words: Sequence[str], launcher: Sequence[str]
) -> dict[str, float]:
    """{script: seconds} of the whole chain, in one process by chain.py, with a launcher stage by stage."""
    record = work / f"{name}.json"
    taken: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    stages = [stage.STAGE for stage in needed_stages(load_experiment(options, work, name, words))]
    scripts = list(TINY_STAGES) if options.tiny else stages if launcher else ["chain"]
    for script in scripts:
        if script not in taken:
            taken[script] = call(script, [*words, f"run.root={work}", f"run.name={name}"], options, launcher)
            write_json(record, taken)
    return taken


def call(script: str, words: Sequence[str], options: StudySection, launcher: Sequence[str]) -> float:
    """Seconds that a script took; ValueError with its last words where it fails."""
    arguments = [str(REPOSITORY / words[0]), *words[1:], *(TINY if options.tiny else ())]
    command = [sys.executable, *launcher, str(REPOSITORY / "pipelines" / f"{script}.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | ({"OMP_NUM_THREADS": "1"} if launcher else {})
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{script} ended with {done.returncode}: {done.stderr[-2000:]}")
    return round(time.monotonic() - started, 1)


def scores(options: StudySection, run: Path) -> dict[str, float]:
    """Every score of a finished chain; of a tiny one, those of its last log line of validation."""
    if options.tiny:
        lines = [json.loads(line) for line in (run / TINY_SCORES).read_text().splitlines()]
        found = [line for line in lines if any(name.startswith("validation/") for name in line)][-1]
        return {name: value for name, value in found.items() if name.startswith("validation/")}
    content: dict[str, Any] = json.loads((run / "report" / "summary.json").read_text())
    both = content["reconstruction"] | content["generation"]
    return {name: float(value) for name, value in both.items() if isinstance(value, int | float)}


def table(rows: Rows) -> str:
    """A line per score: every run, the noise between those in one process, and how far two processes are off."""
    runs = [row for row in rows if row.arguments["way"] != TWO]
    two = next((row for row in rows if row.arguments["way"] == TWO), None)
    halved = next((row for row in runs if row.arguments["way"] == HALVED), runs[0] if runs else None)
    if two is None or halved is None:
        return "Not measured yet."
    shown = [*runs, two]
    lines = []
    for name in two.values["scores"]:
        values = [row.values["scores"][name] for row in runs]
        noise, off = max(values) - min(values), abs(two.values["scores"][name] - halved.values["scores"][name])
        numbers = [*values, two.values["scores"][name], noise, off]
        lines.append((shown, [f"`{name}`", *(f"{number:.4g}" for number in numbers), "yes" if off <= noise else "no"]))
    return markdown_table(["score", *map(describe, shown), "noise", "off", "off <= noise"], lines)


def describe(row: Row) -> str:
    """A run in words."""
    return f"{row.arguments['way']}, seed {row.seed}"


def seconds(rows: Rows) -> str:
    """How long each run took."""
    lines = [([row], [describe(row), f"{sum(row.values['seconds'].values()):.0f}"]) for row in rows]
    return markdown_table(["run", "seconds"], lines)


STUDY = Study(
    "two_processes",
    (*CHAIN_CODE, "pipelines.chain", DEMO, "pipelines.studies.two_processes"),
    cases,
    measure,
    {"scores": table, "seconds": seconds},
)

if __name__ == "__main__":
    main(STUDY)
