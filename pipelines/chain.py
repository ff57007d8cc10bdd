"""The whole chain, stage after stage, in one process: python pipelines/chain.py [CONFIG.yaml ...] [key=value ...]

Interrupted at any point, the same command goes on; finished stages return at once.
"""

import sys
import time
from types import ModuleType

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
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.training_stages import training_stages
from pipelines.run.ranks import connect, wait
from pipelines.run.stage import main, run_stage

STAGE = "chain"


def run(config: Experiment) -> None:
    """Run every stage that `config` needs."""
    stages = needed_stages(config)
    started = time.monotonic()
    is_main = connect(config.run.device).process_index == 0
    for number, stage in enumerate(stages, start=1):
        if is_main:
            print(f"[{number}/{len(stages)}] {stage.STAGE}", file=sys.stderr, flush=True)
        before = time.monotonic()
        run_stage(stage.STAGE, stage.run, config)
        wait()  # of several processes, none begins a stage before its inputs are there
        now = time.monotonic()
        if is_main:
            print(f"      {now - before:.0f} s, {now - started:.0f} s in all", file=sys.stderr, flush=True)


def needed_stages(config: Experiment) -> list[ModuleType]:
    """The stages of this run in order, without the training of models that are taken from elsewhere."""
    stages = [prepare_data, train_motion, train_vae, cache_latents, train_latte, sample, evaluate, report]
    trained = training_stages(config)
    return [stage for stage in stages if not stage.STAGE.startswith("train_") or stage.STAGE in trained]


def describe(config: Experiment) -> str:
    """For run.dry_run: what every stage says of itself."""
    stages = [stage for stage in needed_stages(config) if hasattr(stage, "describe")]
    return "\n".join(f"{stage.STAGE}: {stage.describe(config)}" for stage in stages)


if __name__ == "__main__":
    sections = ("data", "motion", "vae", "cache", "latte", "sample", "evaluate", "weights", "run")
    main(STAGE, run, Experiment, sections, describe)
