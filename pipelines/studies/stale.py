"""Marks what earlier code made, in every result and page, without measuring anything: python -m pipelines.studies.stale

Run it after changing code that a study depends on; a test compares the marks in the repository with the code.
"""

import importlib
from pathlib import Path

from pipelines.studies.code_hash import REPOSITORY, hash_code
from pipelines.studies.result_rows import mark_stale, read_rows, write_page, write_rows
from pipelines.studies.study import RESULTS, Study

STUDIES = (
    *(
        "demo",
        "showcase",
        "actions64",
        "vae_ablation",
        "objective",
        "keyframes",
        "latent_layouts",
        "latte_presets",
        "metric_sanity",
        "latents",
        "latte_recipe",
    ),
    *("vae_speed", "latte_speed", "cache_speed", "evaluate_large", "two_processes", "gpu_latte", "gpu_training"),
    "faults",
)


def load_study(name: str) -> Study:
    """The study of that name."""
    study: Study = importlib.import_module(f"pipelines.studies.{name}").STUDY
    return study


def mark(study: Study, results: Path) -> int:
    """Write the marks of one study's rows and its page; returns how many rows are stale."""
    file, page = results / f"{study.name}.json", results / f"{study.name}.md"
    rows = mark_stale(read_rows(file), hash_code(study.code))
    write_rows(file, study.name, rows, study.command)
    write_page(page, page, study.tables, rows)
    return sum(row.stale for row in rows)


def main() -> None:
    """Mark all studies and say how many rows of each are stale."""
    for name in STUDIES:
        print(f"{name}: {mark(load_study(name), REPOSITORY / RESULTS)} rows made by earlier code")


if __name__ == "__main__":
    main()
