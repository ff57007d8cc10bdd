"""What decoupling is worth at 64 x 64: the controls and every step from the paper's model to the default one.

python -m pipelines.studies.vae_ablation [study.only=[default,plain_equal_latents]] [study.key=value ...]

Three sets of files (configs/studies/ablation_files.csv): the rows train on `learn` and are scored on `test`; `judge` is
what the search for the default was judged on, and takes no part. Needs `python pipelines/weights.py i3d lpips`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines import ablate
from pipelines.metrics.weight_files import find_weights
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
CODE = (
    *("vae", "pipelines.data", "pipelines.run", "pipelines.train_motion", "pipelines.train_vae", "pipelines.ablate"),
    *("pipelines.studies.ablation", "pipelines.metrics.frame_quality", "pipelines.metrics.components"),
    *("pipelines.metrics.lpips_distance", "pipelines.metrics.rfvd", "pipelines.metrics.i3d"),
    *(*CONFIGS, FILES, "configs/backbones", "configs/overlays/ablation_64", "configs/overlays"),
)
NETWORKS = ("i3d", "alexnet", "vgg16")
OF_OBJECTIVE = ("_lpips", "_gan")  # rows of the study `objective`
NO_WEIGHTS = "no-weights-here"
TINY = (
    *("data.num_frames=5", "data.probe_workers=1", f"weights.folder={NO_WEIGHTS}"),
    *("ablation.strides=[1]", "ablation.clips_per_video=1", "ablation.timing_rounds=1", "ablation.timing_steps=1"),
    *("motion.loop.steps=2", "motion.validation_clips=1", "vae.loop.steps=3", "vae.adaptation.phase_two_step=2"),
    *("vae.validation_clips=1", "ablation.rows.default.seeds=1"),
)
TINY_ROWS = (
    *("data.resolution=16", "ablation.only=[default,plain_equal_time]"),
    "ablation.rows.plain_equal_time.seeds=1",
)


def build_config(options: StudySection, work: Path, only: Sequence[str] = ()) -> AblationStudy:
    """The ablation below `work`, of the rows `only`; empty = all."""
    files = [str(REPOSITORY / name) for name in CONFIGS]
    run = [f"run.root={work}", "run.name=ablation", f"data.root={work / 'clips' / 'clips.csv'}"]
    scores = [f"weights.folder={REPOSITORY / 'weights'}", "evaluate.i3d_precision=bf16"]
    rows = [f"ablation.only=[{','.join(only)}]"] if only else []
    tiny = (*TINY, *TINY_ROWS) if options.tiny else ()
    return load_config(AblationStudy, [*files, *run, *scores, *tiny, *rows], Path(files[0]))


def cases(options: StudySection) -> list[Case]:
    """A case per row and seed, but for the rows of the objective."""
    config = build_config(options, Path(options.work))
    names = [name for name in chosen_rows(config.ablation) if not any(word in name for word in OF_OBJECTIVE)]
    return cases_of(config, names, SETS)


def cases_of(config: AblationStudy, names: Sequence[str], arguments: Mapping[str, str]) -> list[Case]:
    """A case per row of `names` and seed."""
    section = config.ablation
    return [
        Case({"row": name, **arguments}, seed)
        for name in names
        for seed in range(section.rows[name].seeds or section.seeds)
    ]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Train and score the rows of `waiting`, with all of their seeds, by the stage ablate."""
    link_clips(options, work / "clips")
    yield from measure_rows(build_config(options, work, rows_of(waiting)), waiting)


def rows_of(cases: Sequence[Case]) -> list[str]:
    """The rows that cases are about, each once."""
    return list(dict.fromkeys(case.arguments["row"] for case in cases))


def measure_rows(config: AblationStudy, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Run an ablation; what it gave for every case. ValueError, before it, without the networks that score."""
    for name in NETWORKS if config.weights.folder != NO_WEIGHTS else ():
        if find_weights(config.weights.folder, name) is None:
            raise ValueError(f"the scores need {name}: call python pipelines/weights.py i3d lpips first")
    run_stage(ablate.STAGE, ablate.run, config)
    yield from finished_runs(config, {(case.arguments["row"], case.seed): case for case in waiting})


def finished_runs(config: AblationStudy, wanted: Mapping[tuple[str, int | None], Case]) -> Iterator[Measured]:
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
                values["sets"] = {record["name"]: record for record in found["sets"]}
                yield Measured(case, round_floats(values), found["git_commit"])


STUDY = Study(name="vae_ablation", code=CODE, cases=cases, measure=measure, tables=TABLES)

if __name__ == "__main__":
    main(STUDY)
