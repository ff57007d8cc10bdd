"""What decoupling is worth at 64 x 64: the controls and every step from the paper's model to the default one.

python -m pipelines.studies.vae_ablation [study.only=[default,plain_equal_latents]] [study.key=value ...]

Three sets of files (configs/studies/ablation_files.csv): the rows train on `learn` and are scored on `test`; `judge` is
what the search for the default was judged on, and takes no part.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines import ablate
from pipelines.run.config import load_config
from pipelines.run.stage import run_stage
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.ablation.plan import chosen_rows, plan_jobs, row_config
from pipelines.studies.ablation.table import WALL, expected_seconds, read_run
from pipelines.studies.ablation.timing import read_timing, steps_within_time
from pipelines.studies.ablation_page import TABLES
from pipelines.studies.clip_sets import FILES, SETS, link_clips
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.result_rows import round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

CONFIGS = ("configs/studies/ablation_64.yaml", "configs/studies/ablations.yaml")
TINY = (
    *("data.resolution=16", "data.num_frames=5", "data.probe_workers=1"),
    *("ablation.strides=[1]", "ablation.clips_per_video=1", "ablation.timing_rounds=1", "ablation.timing_steps=1"),
    *("ablation.only=[default,plain_equal_time]", "ablation.rows.default.seeds=1"),
    *("ablation.rows.plain_equal_time.seeds=1", "motion.loop.steps=2", "motion.validation_clips=1"),
    *("vae.loop.steps=3", "vae.adaptation.phase_two_step=2", "vae.validation_clips=1"),
)


def build_config(options: StudySection, work: Path, only: Sequence[str] = ()) -> AblationStudy:
    """The ablation below `work`, of the rows `only`; empty = all."""
    files = [str(REPOSITORY / name) for name in CONFIGS]
    run = [f"run.root={work}", "run.name=ablation", f"data.root={work / 'clips' / 'clips.csv'}"]
    rows = [f"ablation.only=[{','.join(only)}]"] if only else []
    return load_config(AblationStudy, [*files, *run, *(TINY if options.tiny else ()), *rows], Path(files[0]))


def cases(options: StudySection) -> list[Case]:
    """A case per row and seed."""
    section = build_config(options, Path(options.work)).ablation
    return [
        Case({"row": name, **SETS}, seed)
        for name, row in chosen_rows(section).items()
        for seed in range(row.seeds or section.seeds)
    ]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Train and score the rows of `waiting`, with all of their seeds, by the stage ablate."""
    link_clips(options, work / "clips")
    wanted = {(case.arguments["row"], case.seed): case for case in waiting}
    config = build_config(options, work, list(dict.fromkeys(row for row, _ in wanted)))
    run_stage(ablate.STAGE, ablate.run, config)
    yield from finished_runs(config, wanted)


def finished_runs(config: AblationStudy, wanted: Mapping[tuple[str, int], Case]) -> Iterator[Measured]:
    """What the runs of an ablation gave, for each (row, seed) that is wanted."""
    rows = {name: row_config(config, name) for name in chosen_rows(config.ablation)}
    timing = read_timing(config)
    jobs = plan_jobs(config, rows, steps_within_time(config, rows, timing))
    for job in (job for job in jobs if job.kind == "row"):
        found = read_run(job, config.ablation)
        assert found is not None, "ablate raises where a run is not finished"
        steps = job.config.vae.loop.steps
        for name in job.rows:
            if case := wanted.get((name, job.seed)):
                cost = {"steps": steps, **expected_seconds(rows[name], steps, timing)}
                wall = {name: round(found[name], 1) for name in WALL}
                values = {**found["means"], "groups": found["groups"], **found["model"], **cost, **wall}
                yield Measured(case, round_floats(values), found["git_commit"])


STUDY = Study(
    name="vae_ablation",
    code=(
        *("vae", "pipelines.data", "pipelines.run", "pipelines.train_motion", "pipelines.train_vae"),
        *("pipelines.ablate", "pipelines.studies.ablation", "pipelines.metrics.frame_quality"),
        *(*CONFIGS, FILES, "configs/overlays/ablation_64", "configs/overlays"),
    ),
    cases=cases,
    measure=measure,
    tables=TABLES,
)

if __name__ == "__main__":
    main(STUDY)
