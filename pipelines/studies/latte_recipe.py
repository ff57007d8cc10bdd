"""A transformer that learns fast: what options of its training and sampling do at equal time, on the demo's latents.

python -m pipelines.studies.latte_recipe [study.only=[adamw]] [study.key=value ...]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines import prepare_data
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.run_paths import run_path
from pipelines.studies.ablation.timing import StepClock
from pipelines.studies.generation import (
    CODE,
    Record,
    cases_of,
    equal_steps,
    experiment,
    run_all,
    run_stages,
    scores_of,
    table_of,
    with_latte_steps,
)
from pipelines.studies.result_rows import Rows, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

SEEDS = (0, 1, 2)
BEFORE = ("prepare_data", "train_motion", "train_vae", "cache_latents")
WAYS: dict[str, tuple[str, ...]] = {
    "demo": (),
    "adamw": ("latte.loop.optimizer=adamw",),
    "no_early_head": ("latte.early_head=0", "sample.internal_scale=1"),
    "early_head_in_training_alone": ("sample.internal_scale=1",),
    "no_guidance": ("sample.guidance_scale=1",),
    "modern": ("configs/overlays/modern.yaml", "latte.loop.optimizer=muon", "latte.early_head=2"),
    "factorised": ("latte.attention=factorised",),
    "whole_clips_alone": ("latte.clean_keyframe_share=0",),
    "keyframe_weighs_three": ("latte.part_weights.keyframe=3",),
    "more_noise": ("latte.time_mean=0.8",),
    "wide": ("latte.width=192", "latte.heads=3"),
    "large_batches": ("latte.loop.global_batch_size=64",),
}


def cases(options: StudySection) -> list[Case]:
    """A case per way and seed."""
    return cases_of(list(WAYS), SEEDS, options)


def train_and_score(config: Experiment, base: Path) -> Record:
    """The stages after the cache, of one way and seed."""
    run_stages(config, ["train_latte", "sample", "evaluate"], dict.fromkeys(BEFORE, base))
    return scores_of(config)


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Make the latents of all, time the steps of every way, then train and judge."""
    base = experiment(options, work, "base", ())
    prepare_data.run(base)
    run_stages(base, BEFORE[1:], {})
    configs = {name: experiment(options, work, f"way-{name}", words) for name, words in WAYS.items()}
    if options.tiny:
        configs = {name: configs[name] for name in list(WAYS)[:1]}
    steps = equal_steps(
        *(work / "latte_steps.json", base.latte.loop.steps, configs),
        *(lambda config: StepClock.of_latte(config, base), options.tiny),
    )
    named = {f"{case.arguments['way']}-seed{case.seed}": case for case in waiting}
    jobs = []
    for name, case in named.items():
        way = case.arguments["way"]
        config = with_latte_steps(experiment(options, work, name, WAYS[way], case.seed or 0), steps[way])
        jobs.append((name, train_and_score, (config, run_path(base))))
    for name, record in run_all(jobs, options.tiny):
        yield Measured(named[name], round_floats(record))


def table(rows: Rows) -> str:
    """A line per way, with its steps in the equal time."""
    return table_of(rows, ["steps"], lambda own: [str(own[0].values["latte_steps"])])


STUDY = Study("latte_recipe", (*CODE, "configs/overlays/modern.yaml"), cases, measure, {"ways": table})

if __name__ == "__main__":
    main(STUDY)
