"""Train the motion module by warping: python pipelines/train_motion.py [CONFIG.yaml ...] [key=value ...]

Clips -> motion module (scale-space flow). Self-supervised; `train_vae` starts from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from pipelines.data.clip_dataset import FixedClips, TrainingClips, batches, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.experiment import Experiment
from pipelines.pictures import film_strip, flow_to_rgb, write_png
from pipelines.prepare_data import open_index
from pipelines.run.checkpoint import hash_file, hash_folder
from pipelines.run.folder import StageFolder, resolve_model
from pipelines.run.loop import LoopConfig, may_change, train
from pipelines.run.random_keys import key
from pipelines.run.ranks import connect
from pipelines.run.stage import main, select
from vae.decoupling import split_keyframe
from vae.motion_module import MotionModule
from vae.motion_trainer import MotionTask
from vae.scale_space_flow import enlarge_motion, warp
from vae.ssf2020 import load_ssf2020

STAGE = "train_motion"
VALIDATION_BATCH = 16
NUM_PREVIEW_CLIPS = 8
CHECKPOINT_SUFFIXES = (".tar", ".pth", ".pt")


def run(config: Experiment) -> None:
    """Train, or go on training, the motion module of `config`."""
    index = open_index(config)
    settings = select(config, ("data", "motion", "run"))
    settings["module"] = asdict(config.vae.deco_vae.motion_module)
    inputs = index_input(index)
    source = None
    if config.motion.init_from:
        source, inputs["initial weights"] = load_motion_module(
            config.motion.init_from, run_path(config), settings["module"]
        )
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    with folder.open(settings, inputs, (*may_change("motion.loop"), *DATA_MAY_CHANGE)):
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


# What may differ when a training run goes on: where and how fast the clips are read, not which.
DATA_MAY_CHANGE = ("data.root", "data.splits", "data.memory_cache_gb", "data.probe_*")


def run_path(config: Experiment) -> Path:
    """The folder of the run that `config` names."""
    return Path(config.run.root) / config.run.name


def load_motion_module(reference: str, run_folder: Path, architecture: dict) -> tuple[MotionModule, dict[str, str]]:
    """The motion module behind a reference such as `vae.motion_from`, and what it is for the provenance.

    reference: as for `resolve_model`, or a CompressAI ssf2020 checkpoint file, which then fills `architecture`.
    """
    file = Path(reference)
    if reference and (file.is_file() or file.suffix in CHECKPOINT_SUFFIXES):
        return load_ssf2020(file, architecture), {"path": str(file), "hash": hash_file(file)}
    path = resolve_model(reference, run_folder, STAGE)
    module = MotionModule.from_pretrained(path, use_safetensors=True, low_cpu_mem_usage=False)
    return module, {"path": str(path), "hash": hash_folder(path)}


def take_weights(model: torch.nn.Module, source: torch.nn.Module, path: Path | str) -> None:
    """Copy all weights of `source` into `model`; ValueError when they are not the same network."""
    if model.config["architecture"] != source.config["architecture"]:
        raise ValueError(
            f"the model in {path} has another architecture ({source.config['architecture']}) than the one configured "
            f"({model.config['architecture']}): set the same sizes, or name another model"
        )
    model.load_state_dict(source.state_dict())


def index_input(index: ClipIndex) -> dict[str, dict[str, str]]:
    """The data set as an input of a stage, for its provenance."""
    return {"data set": {"path": str(index.root), "hash": index.fingerprint}}


def training_batches(
    config: Experiment, index: ClipIndex, loop: LoopConfig, stage: str
) -> Callable[[int], Iterator[dict]]:
    """Batches of random training clips from a step on, keyed by the run's seed and the stage."""
    ranks = connect(config.run.device)
    clips = TrainingClips(index, config.data, "train", key(config.run.seed, stage, "clips"))
    return lambda first_step: batches(
        clips, first_step, loop.global_batch_size, ranks.process_index, ranks.num_processes, loop.num_workers
    )


def fixed_batches(config: Experiment, index: ClipIndex, count: int) -> Callable[[], Iterator[dict]]:
    """The same `count` held-out clips every time, spread evenly over the files, in small batches."""
    clips = FixedClips(index, config.data, "validation")
    chosen = torch.linspace(0, len(clips) - 1, min(count, len(clips))).round().long().unique().tolist()

    def generate() -> Iterator[dict]:
        for start in range(0, len(chosen), VALIDATION_BATCH):
            yield collate([clips[i] for i in chosen[start : start + VALIDATION_BATCH]])

    return generate


@torch.no_grad()
def write_preview(model: MotionModule, video: torch.Tensor, folder: Path, step: int) -> None:
    """One picture: film strips of clip, flow and warp below each other. video: (b, 3, t, h, w) in [-1, 1]."""
    from pipelines.data.video_file import to_uint8

    video = video[:NUM_PREVIEW_CLIPS].to(model.device)
    keyframe, _ = split_keyframe(video)
    motion = enlarge_motion(model(video, keyframe), (video.shape[-2], video.shape[-1]))
    warped = warp(keyframe, motion)
    strips = [
        film_strip(pixels, 9)
        for clip in range(len(video))
        for pixels in (to_uint8(video[clip].cpu()), flow_to_rgb(motion[clip]), to_uint8(warped[clip].cpu()))
    ]
    write_png(folder / f"step-{step:08d}.png", torch.cat(strips))


def describe(config: Experiment) -> str:
    """For run.dry_run: size and steps."""
    with torch.device("meta"):
        module = MotionModule(asdict(config.vae.deco_vae.motion_module))
    loop = config.motion.loop
    size = f"motion module: {module.num_parameters():,} parameters"
    return f"{size}, {loop.steps} steps of {loop.global_batch_size} clips"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "motion", "vae", "run"), describe)
