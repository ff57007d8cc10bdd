"""The whole chain, stage after stage, in one process: python pipelines/chain.py [CONFIG.yaml ...] [key=value ...]

Interrupted at any point, the same command goes on; finished stages return at once.
"""

import sys
import time

from pipelines import (
    cache_latents,
    evaluate,
    prepare_data,
    report,
    sample,
    train_latte,
    train_motion,
    train_vae,
)
from pipelines.experiment import Experiment
from pipelines.run.stage import main, run_stage

STAGE = "chain"


def run(config: Experiment) -> None:
    """Run every stage that `config` needs."""
    stages = [prepare_data, train_motion, train_vae, cache_latents, train_latte, sample, evaluate, report]
    if not needs_motion(config):
        stages.remove(train_motion)
    started = time.monotonic()
    for number, stage in enumerate(stages, start=1):
        print(f"[{number}/{len(stages)}] {stage.STAGE}", file=sys.stderr, flush=True)
        before = time.monotonic()
        run_stage(stage.STAGE, stage.run, config)
        now = time.monotonic()
        print(f"      {now - before:.0f} s, {now - started:.0f} s in all", file=sys.stderr, flush=True)


def needs_motion(config: Experiment) -> bool:
    """Whether this run has to train a motion module of its own."""
    section = config.vae
    return section.name == "deco_vae" and section.deco_vae.motion and not (section.motion_from or section.init_from)


def describe(config: Experiment) -> str:
    """For run.dry_run: what every stage says of itself."""
    stages = ([train_motion] if needs_motion(config) else []) + [train_vae, cache_latents, train_latte, sample]
    return "\n".join(f"{stage.STAGE}: {stage.describe(config)}" for stage in stages)


if __name__ == "__main__":
    sections = ("data", "motion", "vae", "cache", "latte", "sample", "evaluate", "run")
    main(STAGE, run, Experiment, sections, describe)
