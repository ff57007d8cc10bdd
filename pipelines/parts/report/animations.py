"""One picture, every class: held-out first frames that the transformer was given, to make the rest of each video."""

import torch
from torch import Tensor

from latte.sampler import generate
from pipelines.data.clip_dataset import FixedClips
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.first_frame import encode_first_frame
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.precision import autocast
from pipelines.inputs.samples import sampler_settings
from pipelines.metrics.clip_set import evenly_spaced
from pipelines.run.ranks import choose_device
from vae.registry import load_autoencoder

NUM_PICTURES, NUM_CLASSES = 3, 8


@torch.no_grad()
def animate_pictures(config: Experiment, index: ClipIndex) -> list[tuple[str, list[Tensor]]]:
    """(class, videos (t, h, w, 3) uint8), one video for each of the same few first frames.

    Empty for a transformer that has no classes, or was not trained on clips with a given keyframe.
    """
    device = choose_device(config.run.device)
    latte_path, vae_path = model_paths(config)
    model, vae = load_latte(latte_path, device, config.sample.ema_length), load_autoencoder(vae_path).to(device)
    if not (model.num_classes and model.training_options.clean_keyframe_share):
        return []
    clips = FixedClips(index, config.data, "validation")
    frames = torch.stack([clips[i]["video"][:, 0] for i in evenly_spaced(len(clips), NUM_PICTURES + 2)[1:-1]])
    with autocast(device, config.sample.precision):
        keyframes = encode_first_frame(vae, frames.to(device))
    count, settings = len(frames), sampler_settings(config, has_classes=True)
    rows = []
    for label in evenly_spaced(model.num_classes, NUM_CLASSES):
        seeds = range(config.sample.seed, config.sample.seed + count)
        with autocast(device, config.sample.precision):
            made = list(generate(model, [label] * count, seeds, settings, count, device, first_frame=keyframes))
            latents = {part: torch.stack([sample["latents"][part] for sample in made]) for part in made[0]["latents"]}
            videos = vae.decode({part: latent.to(device) for part, latent in latents.items()})
        shown = to_uint8(videos.float().cpu())
        rows.append((model.architecture.classes[label], list(shown)))
    return rows
