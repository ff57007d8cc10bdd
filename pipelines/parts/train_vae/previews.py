"""Pictures during the training of an autoencoder."""

from pathlib import Path

import torch

from pipelines.data.pictures import NUM_PREVIEW_CLIPS, component_videos, film_strip, write_png
from vae.interface import VideoAutoencoder


@torch.no_grad()
def write_preview(model: VideoAutoencoder, video: torch.Tensor, folder: Path, step: int) -> None:
    """One picture: film strips of a few clips and all their components. video: (b, 3, t, h, w) in [-1, 1]."""
    video = video[:NUM_PREVIEW_CLIPS].to(model.device)
    components = model.decode_components(video)
    strips = []
    for clip in range(len(video)):
        shown = component_videos({name: x[clip] for name, x in components.items()}, video[clip], model.picture_rows)
        strips += [film_strip(pixels, 9) for pixels in shown.values()]
    write_png(folder / f"step-{step:08d}.png", torch.cat(strips))
