"""The scores of one run of an ablation, clip by clip, and what its model costs: runs/NAME/RUN/scores.json."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.metrics.components import SCORED_COMPONENTS, score_components
from pipelines.run.folder import write_json
from pipelines.run.ranks import choose_device
from pipelines.studies.ablation.options import AblationStudy
from pipelines.train_vae import STAGE
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

BATCH = 8
METRICS = ("psnr", "ssim", "psnr_first_frame", "psnr_keyframe", "psnr_warp_only", "psnr_warp_decoded")


def score_run(config: AblationStudy) -> None:
    """Score the last averaged weights of a run on all held-out files, unless that was done with the same options."""
    file = run_path(config) / "scores.json"
    options = scoring_options(config)
    if file.exists() and json.loads(file.read_text())["options"] == options:
        return
    model = load_autoencoder(resolve_model("", run_path(config), STAGE, which="last"))
    model = model.to(choose_device(config.run.device))
    index = open_index(config)
    clips = [clip for stride in options["strides"] for clip in score_clips(model, config, index, stride)]
    write_json(file, {"options": options, "model": describe_model(model, config), "clips": clips})


def scoring_options(config: AblationStudy) -> dict[str, Any]:
    """What decides which clips are scored, and by what."""
    section = config.ablation
    strides = list(section.strides) or [config.data.frame_stride]
    return {"strides": strides, "clips_per_video": section.clips_per_video, "metrics": list(METRICS)}


@torch.no_grad()
def score_clips(
    model: VideoAutoencoder, config: AblationStudy, index: ClipIndex, stride: int
) -> Iterator[dict[str, str | float | None]]:
    """Yields {"path", "start", "stride", "psnr", ...} of every held-out clip; files too short for the stride drop out.

    The names of pipelines/metrics/components.py; psnr and ssim count all frames. None where the model has no such
    component.
    """
    data = replace(config.data, frame_stride=stride)
    long_enough = tuple(entry for entry in index.split("validation") if entry.num_frames >= data.clip_span)
    if not long_enough:
        return
    clips = FixedClips(replace(index, entries=long_enough), data, "validation", config.ablation.clips_per_video)
    for start in range(0, len(clips), BATCH):
        positions = range(start, min(start + BATCH, len(clips)))
        video = collate([clips[i] for i in positions])["video"]
        components = model.decode_components(video.to(model.device))
        shown = {name: to_uint8(x.cpu()) for name, x in components.items() if name in SCORED_COMPONENTS}
        scores = score_components(shown, to_uint8(video), METRICS)
        for i, position in enumerate(positions):
            clip = clips.describe(position)
            values = {name: round(float(scores[name][i]), 5) if name in scores else None for name in METRICS}
            yield {"path": str(clip["path"]), "start": clip["start"], "stride": stride, **values}


@torch.no_grad()
def describe_model(model: VideoAutoencoder, config: AblationStudy) -> dict[str, Any]:
    """Latent values per clip, parameters, and multiply-adds x 2 of encode + decode of one clip.

    The motion module counts within encode; matrix products, convolutions and attention are counted, the warp is not.
    """
    clip_shape = (config.data.num_frames, config.data.resolution, config.data.resolution)
    motion = sum(parameter.numel() for module in model.motion_modules() for parameter in module.parameters())
    with FlopCounterMode(display=False) as counter:
        model.decode(model.encode(torch.zeros(1, 3, *clip_shape, device=model.device)).latents)
    return {
        "latent_shapes": {part: list(shape) for part, shape in model.latent_shapes(clip_shape).items()},
        "latent_values": sum(prod(shape) for shape in model.latent_shapes(clip_shape).values()),
        "parameters": {"vae": sum(p.numel() for p in model.parameters()) - motion, "motion_module": motion},
        "gflops": round(counter.get_total_flops() / 1e9, 4),
    }


def group_of(path: str, groups: Sequence[str]) -> str:
    """The first of `groups` (leading folders of a path) that a path lies in; "other" for none, "all" without groups."""
    inside = (group for group in groups if Path(path).is_relative_to(group))
    return next(inside, "other" if groups else "all")
