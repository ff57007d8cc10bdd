"""Moving pictures during the training of a Latte."""

from pathlib import Path

import torch

from latte.latte import Latte
from latte.sampler import SamplerConfig, generate
from pipelines.data.pictures import label_rows, tile
from pipelines.data.video_file import to_uint8, write_gif
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import autoencoder_path
from vae.registry import load_autoencoder

PREVIEW_STEPS = 20


@torch.no_grad()
def write_preview(model: Latte, config: Experiment, folder: Path, step: int) -> None:
    """One GIF: a row of samples per class, always with the same seeds."""
    vae = load_autoencoder(autoencoder_path(config)).to(model.device)
    classes = list(range(min(config.latte.preview_classes, model.num_classes))) or [-1]
    labels = [label for label in classes for _ in range(config.latte.preview_per_class)]
    can_guide = model.num_classes and model.training_options.label_dropout
    guidance_scale = config.sample.guidance_scale if can_guide else 1.0
    settings = SamplerConfig(steps=PREVIEW_STEPS, guidance_scale=guidance_scale)
    videos = []
    for sample in generate(model, labels, range(len(labels)), settings, len(labels), model.device):
        latents = {part: latent.unsqueeze(0).to(model.device) for part, latent in sample["latents"].items()}
        videos.append(to_uint8(vae.decode(latents)[0].cpu()))
    per_row = config.latte.preview_per_class
    grid = tile([videos[start : start + per_row] for start in range(0, len(videos), per_row)])
    names = [model.architecture.classes[label] if label >= 0 else "" for label in classes]
    write_gif(folder / f"step-{step:08d}.gif", label_rows(grid, names, videos[0].shape[1]), config.sample.fps)
