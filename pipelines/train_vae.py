"""Train the video autoencoder: python pipelines/train_vae.py [CONFIG.yaml ...] [key=value ...]

Clips + motion module -> autoencoder; two-phase decoupled adaptation (DeCo-VAE 3.3), validation PSNR, pictures.
"""

import torch
from torch import nn

from pipelines.data.clip_index import ClipIndex
from pipelines.inputs.clips import fixed_batches, training_batches
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import DATA_MAY_CHANGE, index_input, open_index
from pipelines.inputs.models import load_motion_module, resolve_model, take_weights
from pipelines.inputs.run_paths import run_path
from pipelines.metrics.lpips_distance import load_lpips
from pipelines.parts.train_vae.previews import write_preview
from pipelines.run.compilation import compile_blocks
from pipelines.run.folder import StageFolder
from pipelines.run.hashes import hash_folder
from pipelines.run.loop import train
from pipelines.run.random_keys import key
from pipelines.run.stage import main, select
from pipelines.run.task import may_change
from vae.interface import VideoAutoencoder
from vae.registry import build_autoencoder, load_autoencoder
from vae.trainer import VaeTask

STAGE = "train_vae"
MAY_CHANGE = (
    "vae.losses.weights_dir",  # older runs recorded it
    "vae.gradient_checkpointing",
    "vae.compile",
    "vae.loop.num_workers",
    "vae.loop.ema_snapshot_every",  # no option any more: older runs recorded it, without effect
)


def run(config: Experiment) -> None:
    """Train, or go on training, the autoencoder of `config`."""
    index = open_index(config)
    section = config.vae
    inputs = index_input(index)
    torch.manual_seed(key(config.run.seed, STAGE, "weights"))
    model = build_autoencoder(section)
    if section.init_from:
        path = resolve_model(section.init_from, run_path(config), STAGE)
        inputs["initial weights"] = {"path": str(path), "hash": hash_folder(path)}
        take_weights(model, load_autoencoder(path), path)
    else:
        for module in model.motion_modules():
            source, inputs["motion module"] = load_motion_module(
                section.motion_from, run_path(config), module.config["architecture"]
            )
            take_weights(module, source, inputs["motion module"]["path"])
    settings, defaults = (select(settings, ("data", "vae", "run")) for settings in (config, Experiment()))
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    may = (*may_change("vae.loop"), *DATA_MAY_CHANGE, *MAY_CHANGE)
    with folder.open(settings, inputs, may, defaults=defaults):
        train(build_task(config, index, model), section.loop, folder, config.run.seed, config.run.device)
        folder.finish()


def build_task(config: Experiment, index: ClipIndex, model: VideoAutoencoder) -> VaeTask:
    """What the training loop drives: `model` with the losses and clips of `config`."""
    section, data = config.vae, config.data
    parts = model.latent_shapes((data.num_frames, data.resolution, data.resolution))
    if unknown := sorted(set(section.losses.kl_factors) - set(parts)):
        raise ValueError(f"vae.losses.kl_factors names {unknown}, but the latent parts are {sorted(parts)}.")
    if section.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if section.compile:
        compile_blocks(model, model.block_class)
    validation = fixed_batches(config, index, section.validation_clips)
    return VaeTask(
        model,
        section.losses,
        section.gan,
        section.adaptation,
        training_batches(config, index, section.loop, STAGE),
        validation,
        lambda ema, path, step: write_preview(ema, next(iter(validation()))["video"], path, step),
        perceptual=perceptual_loss(config),
    )


def perceptual_loss(config: Experiment) -> nn.Module | None:
    """LPIPS from weights.folder, None where it has no weight in the loss. ValueError where its file is missing."""
    losses = config.vae.losses
    if not losses.perceptual:
        return None
    try:
        lpips = load_lpips(config.weights.folder, losses.perceptual_network)
    except ValueError as error:
        raise ValueError(f"vae.losses.perceptual: {error}; or train without it, vae.losses.perceptual=0") from error
    return lpips.to(memory_format=torch.channels_last)  # 1.15 times as fast on a CPU


def describe(config: Experiment) -> str:
    """For run.dry_run: size, latents and steps."""
    with torch.device("meta"):
        model = build_autoencoder(config.vae)
    motion = sum(p.numel() for part in model.motion_modules() for p in part.parameters())
    clip = (config.data.num_frames, config.data.resolution, config.data.resolution)
    loop = config.vae.loop
    return (
        f"{config.vae.name}: {model.num_parameters() - motion:,} parameters + {motion:,} of the motion module\n"
        f"latents of a clip {clip}: {model.latent_shapes(clip)}\n"
        f"{loop.steps} steps of {loop.global_batch_size} clips"
    )


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "vae", "weights", "run"), describe)
