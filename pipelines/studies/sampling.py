"""Videos that begin with given frames, and the same seeds in batches of 1 and of 8: docs/results/sampling.json.

python pipelines/studies/sampling.py configs/demo.yaml run.name=demo [key=value ...]

Needs the run of that configuration (`make demo`). A second Latte is trained on its cache with the overlay
image_to_video; every held-out clip gives a first frame.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines import train_latte
from pipelines.cache_latents import STAGE as CACHE
from pipelines.data.video_file import to_float, to_uint8
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.run_paths import run_path
from pipelines.parts.sample.plan import plan_samples
from pipelines.run.config import load_config
from pipelines.run.folder import git_commit, write_json
from pipelines.sample import generate_videos
from pipelines.studies.judges import Judges, held_out_clips
from vae.registry import load_autoencoder

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / "configs" / "overlays" / "image_to_video.yaml"


def main(arguments: list[str]) -> None:
    config = load_config(Experiment, arguments, ROOT / "configs" / "demo.yaml")
    config = replace(config, sample=replace(config.sample, precision="fp32"))
    content = {"batches": compare_batches(config)}
    files = [word for word in arguments if word.endswith(".yaml")]
    options = [word for word in arguments if word not in files]
    overlaid = load_config(Experiment, [*files, str(OVERLAY), *options], ROOT / "configs" / "demo.yaml")
    run = replace(config.run, name=f"{config.run.name}-first_frame")
    content |= {"image_to_video": image_to_video(config, replace(config, latte=overlaid.latte, run=run))}
    write_json(ROOT / "docs" / "results" / "sampling.json", content | {"git_commit": git_commit()})
    print(json.dumps(content, indent=2))


def compare_batches(config: Experiment) -> dict[str, float]:
    """The largest difference between videos of the same seeds sampled one by one and in eights, in levels of 255."""
    videos, _ = sample(config, 1)
    others, _ = sample(config, 8)
    difference = (videos.int() - others.int()).abs()
    return {"videos": len(videos), "largest_difference": int(difference.max())}


def image_to_video(config: Experiment, overlaid: Experiment) -> dict[str, float]:
    """Class accuracy of videos that begin with the frames of held-out clips, and how well the frames are kept."""
    index, folder = open_index(config), run_path(overlaid)
    folder.mkdir(parents=True, exist_ok=True)
    for stage in ("prepare_data", "train_vae", CACHE):
        if not (folder / stage).exists():
            (folder / stage).symlink_to((run_path(config) / stage).resolve(), target_is_directory=True)
    train_latte.run(overlaid)
    real, real_labels = held_out_clips(config)
    frames = folder / "first_frames"
    for number, (clip, label) in enumerate(zip(real, real_labels.tolist(), strict=True)):
        file = frames / index.classes[label] / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(clip[0].numpy()).save(file)
    overlaid = replace(overlaid, sample=replace(overlaid.sample, first_frame=str(frames)))
    videos, plan = sample(overlaid, 8)
    given = torch.stack([torch.from_numpy(np.array(Image.open(entry["first_frame"]))) for entry in plan]).unsqueeze(1)
    vae = load_autoencoder(model_paths(config)[1])
    with torch.no_grad():
        expected = to_uint8(torch.cat([vae.reconstruct(to_float(frame.unsqueeze(0))) for frame in given]))
    labels = torch.tensor([entry["label"] for entry in plan])
    return {
        "videos": len(videos),
        "largest_difference_of_first_frame": int((videos[:, :1].int() - expected.int()).abs().max()),
        "class_accuracy": Judges.fit(config).accuracy(videos, labels),
    }


def sample(config: Experiment, batch_size: int) -> tuple[Tensor, list[dict]]:
    """All videos (n, t, h, w, 3) uint8 of the run's Latte in fp32, and their plan."""
    config = replace(config, sample=replace(config.sample, batch_size=batch_size))
    latte, autoencoder = model_paths(config)
    device = torch.device("cpu")
    model = load_latte(latte, device)
    plan = plan_samples(config, model)
    return torch.stack(list(generate_videos(model, load_autoencoder(autoencoder), plan, config, device))), plan


if __name__ == "__main__":
    main(sys.argv[1:])
