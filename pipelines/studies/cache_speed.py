"""How the latent cache feeds the training: python -m pipelines.studies.cache_speed [study.key=value ...]

The rows of `pipelines/benchmark.py cache`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.run.config import load_config
from pipelines.studies.benchmarks.cache_speed import KIND, STORAGES
from pipelines.studies.benchmarks.cache_speed import run as benchmark
from pipelines.studies.benchmarks.options import Benchmark
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.result_rows import Rows, markdown_table
from pipelines.studies.study import Case, Measured, Study, StudySection, main

CONFIG = "configs/kinetics400_256.yaml"
WHATS = ("encode", *(f"read {storage}" for storage in STORAGES), "train")
FIGURES = {
    "clips_per_second": "clips per second",
    "ratio": "of the bare autoencoder's clips per second",
    "gb_per_second": "stored GB per second",
    "waiting_share": "share of a training step spent waiting for latents",
    "waiting_share_without_thread": "the same if nothing were read ahead",
}
TINY = (
    *("benchmark.rounds=1", "benchmark.repeats=1", "benchmark.warm_up=0", "benchmark.cache_clips=2"),
    *("benchmark.cache_gb=0.001", "benchmark.num_frames=5", "benchmark.resolution=32"),
    *("latte.size=S/2", "run.threads=1", "run.device=cpu"),
)


def cases(options: StudySection) -> list[Case]:
    """A case per way in which the cache is used."""
    return [Case({"what": what}) for what in WHATS]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Run the benchmark, which measures all of them, and take what is asked for."""
    file = REPOSITORY / CONFIG
    words = [f"run.root={work}", "run.name=speed", *(TINY if options.tiny else ())]
    benchmark(load_config(Benchmark, [str(file), *words], file))
    rows = {row.pop("name"): row for row in json.loads((work / "speed" / f"{KIND}.json").read_text())["rows"]}
    for case in waiting:
        yield Measured(case, rows[case.arguments["what"]])


def table(rows: Rows) -> str:
    """A line per figure."""
    lines = [
        ([row], [row.arguments["what"], meaning, f"{row.values[figure]:.4g}"])
        for row in rows
        for figure, meaning in FIGURES.items()
        if figure in row.values
    ]
    return markdown_table(["what", "figure", "value"], lines)


STUDY = Study(
    "cache_speed",
    (
        *("vae", "latte", "pipelines.data", "pipelines.run", "pipelines.cache_latents"),
        *("pipelines.studies.benchmarks", CONFIG),
    ),
    cases,
    measure,
    {"cache": table},
)

if __name__ == "__main__":
    main(STUDY)
