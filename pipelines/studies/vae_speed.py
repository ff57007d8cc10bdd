"""How fast the autoencoders are, at full size: python -m pipelines.studies.vae_speed [study.key=value ...]

The rows of `pipelines/benchmark.py vae`; several hours on two CPU cores.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.run.config import load_config
from pipelines.studies.benchmarks.options import Benchmark, BenchmarkSection
from pipelines.studies.benchmarks.vae_speed import KIND, OPTIONS
from pipelines.studies.benchmarks.vae_speed import run as benchmark
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.result_rows import Row, Rows, markdown_table
from pipelines.studies.study import Case, Measured, Study, StudySection, main

CONFIG = "configs/kinetics400_256.yaml"
REFERENCES = ("AutoencoderKLWan", "plain_vae", "deco_vae_repeat")
TINY = (
    *("benchmark.rounds=1", "benchmark.repeats=1", "benchmark.warm_up=0", "benchmark.num_frames=5"),
    *("benchmark.resolution=32", "run.threads=1", "run.device=cpu"),
)
TINY_MODELS, TINY_OPTIONS = ("deco_vae",), ("bf16",)


def cases(options: StudySection) -> list[Case]:
    """A case per model, then one per option and model."""
    defaults = BenchmarkSection()
    models = TINY_MODELS if options.tiny else defaults.models
    wanted = TINY_OPTIONS if options.tiny else defaults.options
    with_options = [(model, option) for option in wanted for model, _ in OPTIONS[option]]
    return [Case({"model": model, "option": option}) for model, option in [*((m, "") for m in models), *with_options]]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Run the benchmark of the models that are asked for."""
    wanted = {(case.arguments["model"], case.arguments["option"]): case for case in waiting}
    models = ",".join(dict.fromkeys(model for model, _ in wanted))
    chosen = ",".join(dict.fromkeys(option for _, option in wanted if option))
    words = [f"run.root={work}", "run.name=speed", f"benchmark.models=[{models}]", f"benchmark.options=[{chosen}]"]
    file = REPOSITORY / CONFIG
    benchmark(load_config(Benchmark, [str(file), *words, *(TINY if options.tiny else ())], file))
    content = json.loads((work / "speed" / f"{KIND}.json").read_text())
    for row in (*content["rows"], *content["options"]):
        if case := wanted.get((row["name"], row.get("option", ""))):
            yield Measured(case, {name: value for name, value in row.items() if name not in ("name", "option")})


def of(rows: Rows, model: str, option: str = "", again: bool = False) -> Row | None:
    """The row of one model that was measured, None where there is none."""
    for row in rows:
        key = (row.arguments["model"], row.arguments["option"], "measured" in row.arguments)
        if key == (model, option, again) and "seconds" in row.values:
            return row
    return None


def table(rows: Rows, again: bool = False) -> str:
    """A line per model, with its time over that of the references."""
    head = ["model", "encode s", "decode s", *(f"/ {name}" for name in REFERENCES)]
    head += ["GFLOP", "GFLOP/s", "parameters", "peak GB"]
    references = [of(rows, name, again=again) for name in REFERENCES]
    lines = []
    for row in rows:
        if row.arguments["option"] or ("measured" in row.arguments) != again:
            continue
        found: dict[str, Any] = dict(row.values)
        if "error" in found:
            lines.append(([row], [f"`{row.arguments['model']}`", found["error"], *[""] * (len(head) - 2)]))
            continue
        ratios = ["-" if other is None else f"{found['seconds'] / other.values['seconds']:.3f}" for other in references]
        cells = [f"`{row.arguments['model']}`", f"{found['encode_seconds']:.3g}", f"{found['decode_seconds']:.3g}"]
        cells += [*ratios, f"{found['gflops']:,.0f}", f"{found['gflops'] / found['seconds']:.0f}"]
        lines.append(([row], [*cells, f"{found['parameters'] / 1e6:.1f} M", f"{found['peak_gb']:.2f}"]))
    return markdown_table(head, lines)


def options_table(rows: Rows) -> str:
    """A line per option, with its speed over the same model without it."""
    lines = []
    for row in rows:
        option = row.arguments["option"]
        if not option or "seconds" not in row.values:
            continue
        base = of(rows, row.arguments["model"], "training" if option == "gradient_checkpointing" else "")
        is_compared = base is not None and option != "training"
        ratio = f"{base.values['seconds'] / row.values['seconds']:.2f}" if is_compared and base else "-"
        cells = [f"{row.values['seconds']:.2f}", ratio, f"{row.values['peak_gb']:.2f}"]
        lines.append(([row], [f"`{row.arguments['model']}` {option.replace('_', ' ')}", *cells]))
    return markdown_table(["option", "seconds", "times as fast", "peak GB"], lines)


STUDY = Study(
    "vae_speed",
    ("vae", "pipelines.studies.benchmarks", CONFIG, "configs/overlays/paper.yaml", "configs/overlays/repeat.yaml"),
    cases,
    measure,
    {"models": table, "again": lambda rows: table(rows, again=True), "options": options_table},
)

if __name__ == "__main__":
    main(STUDY)
