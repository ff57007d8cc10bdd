"""Train the motion module by warping: python pipelines/train_motion.py [CONFIG.yaml ...] [key=value ...]

Clips -> motion module (scale-space flow). Self-supervised; `train_vae` starts from it.
"""

from dataclasses import asdict

import torch

from pipelines.data.clip_index import ClipIndex
from pipelines.inputs.clips import fixed_batches, training_batches
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import DATA_MAY_CHANGE, index_input, open_index
from pipelines.inputs.models import load_motion_module, take_weights
from pipelines.inputs.run_paths import run_path
from pipelines.parts.train_motion.previews import write_preview
from pipelines.run.folder import StageFolder
from pipelines.run.loop import train
from pipelines.run.random_keys import key
from pipelines.run.stage import main, select
from pipelines.run.task import may_change
from vae.motion_module import MotionModule
from vae.motion_trainer import MotionTask

STAGE = "train_motion"
MAY_CHANGE = (
    "motion.loop.num_workers",
    "motion.loop.ema_snapshot_every",  # no option any more: older runs recorded it, without effect
)


def run(config: Experiment) -> None:
    """Train, or go on training, the motion module of `config`."""
    index = open_index(config)
    settings, defaults = (select(one, ("data", "motion", "run")) for one in (config, Experiment()))
    settings["module"] = asdict(config.vae.deco_vae.motion_module)
    inputs = index_input(index)
    source = None
    if config.motion.init_from:
        source, inputs["initial weights"] = load_motion_module(
            config.motion.init_from, run_path(config), settings["module"]
        )
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    may = (*may_change("motion.loop"), *DATA_MAY_CHANGE, *MAY_CHANGE)
    with folder.open(settings, inputs, may, defaults=defaults):
        torch.manual_seed(key(config.run.seed, STAGE, "weights"))
        task = build_task(config, index)
        if source is not None:
            take_weights(task.players["motion_module"], source, config.motion.init_from)
        train(task, config.motion.loop, folder, config.run.seed, config.run.device)
        folder.finish()


def build_task(config: Experiment, index: ClipIndex) -> MotionTask:
    """What the training loop drives: a new motion module with the losses and clips of `config`."""
    validation = fixed_batches(config, index, config.motion.validation_clips)
    return MotionTask(
        MotionModule(asdict(config.vae.deco_vae.motion_module)),
        config.motion.losses,
        training_batches(config, index, config.motion.loop, STAGE),
        validation,
        lambda model, path, step: write_preview(model, next(iter(validation()))["video"], path, step),
    )


def describe(config: Experiment) -> str:
    """For run.dry_run: size and steps."""
    with torch.device("meta"):
        module = MotionModule(asdict(config.vae.deco_vae.motion_module))
    loop = config.motion.loop
    size = f"motion module: {module.num_parameters():,} parameters"
    return f"{size}, {loop.steps} steps of {loop.global_batch_size} clips"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "motion", "vae", "run"), describe)
