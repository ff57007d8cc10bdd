"""Train a list of overlays under equal steps or equal time, and write one table:

python pipelines/ablate.py configs/studies/ablation_64.yaml configs/studies/ablations.yaml data.root=FOLDER [...]

Writes runs/<run>/ablation.json and ablation.md after each run that ends; killed at any point, the same command goes on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import prepare_data, train_vae
from pipelines.data.clip_index import SPLITS, ClipIndex
from pipelines.inputs.index import DATA_MAY_CHANGE, index_input, open_index
from pipelines.run.config import load_config
from pipelines.run.folder import StageFolder, write_json, write_text
from pipelines.run.stage import alone, main, select
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.ablation.plan import (
    WITHOUT_EFFECT,
    Job,
    chosen_rows,
    differences,
    plan_jobs,
    row_config,
)
from pipelines.studies.ablation.pool import run_jobs, say
from pipelines.studies.ablation.scores import scoring_options
from pipelines.studies.ablation.table import build_table, to_markdown
from pipelines.studies.ablation.timing import Timing, missing_rows, read_timing, steps_within_time

STAGE = "ablate"


@alone
def run(config: AblationStudy) -> None:
    """Train and score what is missing of the rows of `config`."""
    rows = {name: row_config(config, name) for name in chosen_rows(config.ablation)}
    prepare_data.run(config)
    index = open_index(config)
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    may_change = ("ablation.*", "vae.*", "motion.*", *DATA_MAY_CHANGE)
    sections = ("data", "motion", "vae", "ablation", "run")
    settings, defaults = (select(one, sections) for one in (config, AblationStudy()))
    with folder.open(settings, index_input(index), may_change, defaults=defaults):
        timing = time_rows(config)
        jobs = plan_jobs(config, rows, steps_within_time(config, rows, timing))
        for job in jobs:
            check_same(job)
            share_index(job, config)
        waiting = [job for job in jobs if not is_done(job, index)]

        def write_table(failed: Mapping[str, str]) -> None:
            table = build_table(config, rows, jobs, timing, failed)
            write_json(folder.path.parent / "ablation.json", {"data": describe_data(index), **table})
            write_text(folder.path.parent / "ablation.md", to_markdown(table))

        write_table({})
        failed = run_jobs(waiting, config.ablation.processes, write_table)
        write_table(failed)
        if failed:
            name, reason = next(iter(failed.items()))
            raise ValueError(f"{len(failed)} of {len(jobs)} runs failed, such as {name} ({reason}); see its log.txt")
        folder.finish({"runs": len(jobs)})
        print((folder.path.parent / "ablation.md").read_text(encoding="utf-8"))


def time_rows(config: AblationStudy) -> Timing:
    """The timing of all rows, measured where it is missing, in a process of its own while nothing else is trained."""
    timing = read_timing(config)
    missing = missing_rows(config, timing) if config.ablation.timing_rounds else []
    if not missing:
        return timing
    say(f"timing {', '.join(missing)}")
    failed = run_jobs([Job("timing", "timing", config)], 1, lambda failed: None)
    if failed:
        raise ValueError(f"timing the rows failed: {failed['timing']}")
    return read_timing(config)


def check_same(job: Job) -> None:
    """Raise ValueError when the run's folder was made with settings that lead to other weights."""
    file = job.path / "experiment.yaml"
    if not file.exists():
        return
    remedy = "choose another run.name=, or remove the folder to make it again"
    try:
        before = load_config(AblationStudy, [str(file)], file)  # options that are new since then have their defaults
    except ValueError as error:
        raise ValueError(f"{job.path} was made by another version of the code ({error}); {remedy}") from error
    changed = [
        f"{name} (was {was!r}, now {now!r})"
        for name, was, now in differences(before, job.config, (*WITHOUT_EFFECT, "ablation.*"))
    ]
    if changed:
        raise ValueError(f"{job.path} was made with other settings: {', '.join(changed)}; {remedy}")


def share_index(job: Job, config: AblationStudy) -> None:
    """Let a run use the clip index of the ablation: all runs see the same clips, checked once."""
    job.path.mkdir(parents=True, exist_ok=True)
    link = job.path / prepare_data.STAGE
    if not link.is_symlink():
        depth = len(Path(job.name).parts)
        link.symlink_to(Path(*[".."] * depth) / prepare_data.STAGE, target_is_directory=True)


def is_done(job: Job, index: ClipIndex) -> bool:
    """Whether a job has nothing to do; raises ValueError when it was done with other clips."""
    stage = "train_motion" if job.kind == "motion" else train_vae.STAGE
    if not (job.path / stage / "done.json").exists():
        return False
    made_from = json.loads((job.path / stage / "provenance.json").read_text())["inputs"]["data set"]
    if made_from["hash"] != index.fingerprint:
        raise ValueError(f"{job.path} was made from other clips ({made_from['path']}): choose another run.name=")
    scores = job.path / "scores.json"
    if job.kind == "motion":
        return True
    return scores.exists() and json.loads(scores.read_text())["options"] == scoring_options(job.config)


def describe_data(index: ClipIndex) -> dict[str, Any]:
    """Which clips the table is about."""
    splits = {split: [entry.path for entry in index.entries if entry.split == split] for split in SPLITS}
    return {"fingerprint": index.fingerprint, "train": len(splits["train"]), "validation": splits["validation"]}


def describe(config: AblationStudy) -> str:
    """For run.dry_run: what every row trains."""
    rows = {name: row_config(config, name) for name in chosen_rows(config.ablation)}
    texts = [f"{name}: {train_vae.describe(changed)}" for name, changed in rows.items()]
    return "\n".join(text.replace("\n", "; ") for text in texts)


if __name__ == "__main__":
    main(STAGE, run, AblationStudy, ("data", "motion", "vae", "ablation", "run"), describe)
