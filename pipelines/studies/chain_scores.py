"""The whole chain with one file of options, its scores and the time of its stages: the pages demo and actions64."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipelines.inputs.run_paths import run_path
from pipelines.run.config import to_yaml
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.experiments import CHAIN_CODE, load_experiment
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection


def chain_study(
    name: str, config: str, clips: Callable[[StudySection], list[str]], based_on: tuple[str, ...] = ()
) -> Study:
    """The study of one run of the chain; clips: words that name its data; based_on: files that config begins with."""

    def cases(options: StudySection) -> list[Case]:
        return [Case({"config": config}, seed=0)]

    def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
        for case in waiting:
            experiment = load_experiment(options, work, "chain", [config, *clips(options)])
            folder = run_path(experiment)
            resolved = work / "chain.yaml"
            resolved.parent.mkdir(parents=True, exist_ok=True)
            resolved.write_text(to_yaml(experiment))
            # as a user calls it: with the processes that the configuration asks for
            subprocess.run([sys.executable, str(REPOSITORY / "pipelines" / "chain.py"), str(resolved)], check=True)
            summary = json.loads((folder / "report" / "summary.json").read_text())
            provenance = json.loads((folder / "train_vae" / "provenance.json").read_text())
            yield Measured(case, round_floats(summary), provenance["git_commit"])

    tables = {"scores": scores, "seconds": seconds}
    return Study(name, (*CHAIN_CODE, "pipelines.chain", config, *based_on), cases, measure, tables)


def scores(rows: Rows) -> str:
    """A line per score of the autoencoder and of the generated videos."""
    lines = [
        ([row], [of, f"`{score}`", f"{value:.4g}"])
        for row in rows
        for of in ("reconstruction", "generation")
        for score, value in row.values[of].items()
        if isinstance(value, int | float)
    ]
    return markdown_table(["of", "score", "value"], lines)


def seconds(rows: Rows) -> str:
    """A line per stage, and what they come to."""
    lines = []
    for row in rows:
        taken = {stage: value for stage, value in row.values["seconds"].items() if value is not None}
        lines += [([row], [f"`{stage}`", f"{value:.0f}"]) for stage, value in taken.items()]
        lines.append(([row], ["in all", f"{sum(taken.values()):.0f}"]))
        lines.append(([row], ["peak memory, GB", f"{row.values['peak_rss_gb']:.2f}"]))
    return markdown_table(["stage", "seconds"], lines)
