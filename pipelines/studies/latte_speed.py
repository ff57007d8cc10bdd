"""How fast Latte trains, beside published transformers, and what each change to the published block brings.

python -m pipelines.studies.latte_speed [study.key=value ...]; the rows of `pipelines/benchmark.py latte`, and shares.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.run.config import load_config
from pipelines.studies.benchmarks.latte_measurement import LatteJob
from pipelines.studies.benchmarks.latte_shares import measure_shares
from pipelines.studies.benchmarks.latte_speed import KIND, REFERENCE, name
from pipelines.studies.benchmarks.latte_speed import run as benchmark
from pipelines.studies.benchmarks.options import Benchmark, BenchmarkSection
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

CONFIG = "configs/kinetics400_256.yaml"
SHARES, ROUNDS = "what each change brings", 5
TINY = (
    *("benchmark.rounds=1", "benchmark.repeats=1", "benchmark.warm_up=0", "benchmark.latte_latents=[4,3,16,16]"),
    *("benchmark.latte_size=S/8", "run.threads=1", "run.device=cpu"),
)
TINY_MODELS, TINY_JOB = ("latte",), LatteJob("latte", "S/8", (4, 3, 16, 16), 1, "cpu", 0, 1, 1, 0, "bf16")
JOB = LatteJob("latte", "S/2", (16, 5, 32, 32), 1, "cpu", 0, 1, 1, 0, "bf16")


def cases(options: StudySection) -> list[Case]:
    """A case per model and precision, and one for the shares of the changes."""
    models = TINY_MODELS if options.tiny else BenchmarkSection().latte_models
    found = [Case({"model": model, "precision": precision}) for precision in ("bf16", "fp32") for model in models]
    return [*found, Case({"model": SHARES, "precision": "bf16"})]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Run the benchmark of the models that are asked for, then the shares."""
    wanted = {(case.arguments["model"], case.arguments["precision"]): case for case in waiting}
    models = list(dict.fromkeys(model for model, _ in wanted if model != SHARES))
    if models:
        words = [f"run.root={work}", "run.name=speed", f"benchmark.latte_models=[{','.join(models)}]"]
        file = REPOSITORY / CONFIG
        config = load_config(Benchmark, [str(file), *words, *(TINY if options.tiny else ())], file)
        benchmark(config)
        content = json.loads((work / "speed" / f"{KIND}.json").read_text())
        size = config.benchmark.latte_size
        named = {name(LatteJob(model, size, JOB.latents, 1, "cpu", 0, 0, 0, 0)): model for model in models}
        for row in content["rows"]:
            if case := wanted.get((named[row["name"]], row["dtype"])):
                yield Measured(case, {key: value for key, value in row.items() if key not in ("name", "dtype")})
    if case := wanted.get((SHARES, "bf16")):
        job, rounds = (TINY_JOB, 1) if options.tiny else (JOB, ROUNDS)
        yield Measured(case, round_floats(measure_shares(job, rounds)))


def models_table(rows: Rows) -> str:
    """A line per model and precision."""
    measured = [row for row in rows if row.arguments["model"] != SHARES]
    steps = {(row.arguments["model"], row.arguments["precision"]): row.values["train_step_seconds"] for row in measured}
    lines = []
    for row in measured:
        model, precision = row.arguments["model"], row.arguments["precision"]
        found, reference = row.values, steps.get((REFERENCE, precision))
        ratio = f"{found['train_step_seconds'] / reference:.3f}" if reference else "-"
        cells = [
            f"`{model}`",
            precision,
            f"{found['forward_seconds']:.3f}",
            f"{found['train_step_seconds']:.3f}",
            ratio,
        ]
        cells += [f"{found['peak_gb']:.2f}", f"{found['gflops']:.1f}", f"{found['parameters'] / 1e6:.1f} M"]
        lines.append(([row], cells))
    head = ["model", "precision", "forward s", "step s", "step / diffusers", "peak GB", "GFLOP", "parameters"]
    return markdown_table(head, lines)


def shares_table(rows: Rows) -> str:
    """A line per change that is taken back."""
    lines = [
        ([row], [taken_back, f"{found['seconds']:.3f}", f"{found['times_default']:.2f}"])
        for row in rows
        if row.arguments["model"] == SHARES
        for taken_back, found in row.values.items()
    ]
    return markdown_table(["taken back, or in its place", "seconds per step", "times as long"], lines)


STUDY = Study(
    "latte_speed",
    ("latte", "pipelines.run", "pipelines.studies.benchmarks", CONFIG),
    cases,
    measure,
    {"models": models_table, "shares": shares_table},
)

if __name__ == "__main__":
    main(STUDY)
