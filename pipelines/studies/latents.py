"""Latents made to be generated: what the options of the autoencoder do to the videos that a transformer makes of them.

python -m pipelines.studies.latents [study.only=[no_skips]] [study.key=value ...]
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines import prepare_data
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.run_paths import run_path
from pipelines.studies.ablation.timing import StepClock
from pipelines.studies.ablation_page import over
from pipelines.studies.generation import (
    CODE,
    STAGES,
    Record,
    cases_of,
    equal_steps,
    experiment,
    run_all,
    run_stages,
    scores_of,
    table_of,
)
from pipelines.studies.result_rows import Rows, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

DECO, SEEDS = "vae.deco_vae", (0, 1, 2)
SMALL = "{low_width: 32, high_width: 96, separate_blocks: 1, fusion_blocks: 2}"
PLAIN = (
    *("vae.name=plain_vae", f"vae.plain_vae.encoder={SMALL}", f"vae.plain_vae.decoder={SMALL}"),
    *("vae.plain_vae.bottleneck=linear", "vae.plain_vae.overlapping_patches=true"),
    "latte.clean_keyframe_share=0",
)
ONE_KL = ("vae.losses.kl_factors.motion=1", "vae.losses.kl_factors.residual=1")
WAYS: dict[str, tuple[str, ...]] = {
    "demo": (),
    "plain_equal_values": (*PLAIN, "vae.plain_vae.latent_channels=4"),
    "plain_8_channels": (*PLAIN, "vae.plain_vae.latent_channels=8"),
    "no_motion": (f"{DECO}.motion=false", f"{DECO}.latent_channels.residual=4"),
    "no_skips": (f"{DECO}.motion_module.skips=false",),
    "additive": (f"{DECO}.recoupling=additive",),
    "one_kl": ONE_KL,
    "kl_third": ("vae.losses.kl=1.7e-5",),
    "kl_triple": ("vae.losses.kl=1.5e-4",),
    "wide": (
        *(f"{DECO}.latent_channels.keyframe=8", f"{DECO}.latent_channels.residual=6"),
        *ONE_KL,
    ),
    "narrow": (f"{DECO}.latent_channels.keyframe=3", f"{DECO}.latent_channels.motion=1"),
    "no_l2": ("vae.losses.l2=0",),
}
OWN_MOTION = ("no_skips",)  # ways with a motion module of their own


def cases(options: StudySection) -> list[Case]:
    """A case per way and seed."""
    return cases_of(list(WAYS), SEEDS, options)


def with_vae_steps(config: Experiment, steps: int) -> Experiment:
    """The same with another length of the autoencoder's training, and its second phase after the same share."""
    vae = config.vae
    second = round(vae.adaptation.phase_two_step * steps / vae.loop.steps)
    loop, adaptation = replace(vae.loop, steps=steps), replace(vae.adaptation, phase_two_step=second)
    return replace(config, vae=replace(vae, loop=loop, adaptation=adaptation))


def train_and_score(config: Experiment, shared: dict[str, Path]) -> Record:
    """All stages of one way and seed."""
    run_stages(config, [stage for stage in STAGES if stage not in shared], shared)
    return scores_of(config)


def train_motion_for(config: Experiment, base: Path) -> None:
    """A motion module that several ways share."""
    run_stages(config, ["train_motion"], {"prepare_data": base})


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Time the steps of every way, train the motion modules, then every way, and judge."""
    named = {f"{case.arguments['way']}-seed{case.seed}": case for case in waiting}
    base = experiment(options, work, "base", ())
    prepare_data.run(base)
    configs = {name: experiment(options, work, f"way-{name}", words) for name, words in WAYS.items()}
    if options.tiny:
        configs = {name: configs[name] for name in list(WAYS)[:1]}
    steps = equal_steps(
        *(work / "vae_steps.json", base.vae.loop.steps, configs),
        *(lambda config: StepClock.of_vae(config, base), options.tiny),
    )
    motions, jobs = {}, []
    for name, case in named.items():
        way, seed = case.arguments["way"], case.seed or 0
        config = with_vae_steps(experiment(options, work, name, WAYS[way], seed), steps[way])
        shared = {"prepare_data": run_path(base)}
        if config.vae.has_motion_module:
            motion = f"motion-{way if way in OWN_MOTION else 'all'}-seed{seed}"
            motions[motion] = experiment(options, work, motion, WAYS[way] if way in OWN_MOTION else (), seed)
            shared["train_motion"] = run_path(motions[motion])
        else:
            shared["train_motion"] = run_path(base)  # none is needed
        jobs.append((name, train_and_score, (config, shared)))
    trained = [(name, train_motion_for, (config, run_path(base))) for name, config in motions.items()]
    for _ in run_all(trained, options.tiny):
        pass
    for name, record in run_all(jobs, options.tiny):
        yield Measured(named[name], round_floats(record))


def about(rows: Rows) -> list[str]:
    """Values per clip, steps in the equal time, and PSNR of the autoencoder."""
    found = [row.values for row in rows]
    warped = [run.get("psnr_warp_decoded") for run in found]
    cells = [str(found[0]["values_per_clip"]), str(found[0]["vae_steps"])]
    return [*cells, over([run["psnr"] for run in found], ".1f"), over(warped, ".1f")]


def table(rows: Rows) -> str:
    """A line per way."""
    return table_of(rows, ["values per clip", "steps", "PSNR, dB", "of the warp alone"], about)


STUDY = Study("latents", CODE, cases, measure, {"ways": table})

if __name__ == "__main__":
    main(STUDY)
