"""The scores of one run of an ablation, clip by clip, and what its model costs: runs/NAME/RUN/scores.json."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.metrics.frame_quality import psnr, ssim
from pipelines.run.folder import write_json
from pipelines.run.ranks import choose_device
from pipelines.studies.ablation.options import AblationStudy
from pipelines.train_vae import STAGE
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

BATCH = 8
SMALLEST_SSIM = 11  # pixels: the window of SSIM


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
    """What decides which clips are scored."""
    section = config.ablation
    strides = list(section.strides) or [config.data.frame_stride]
    return {"strides": strides, "clips_per_video": section.clips_per_video}


@torch.no_grad()
def score_clips(
    model: VideoAutoencoder, config: AblationStudy, index: ClipIndex, stride: int
) -> Iterator[dict[str, str | float | None]]:
    """Yields {"path", "start", "stride", "psnr", ...} of every held-out clip; files too short for the stride drop out.

    psnr, ssim: of all frames, on uint8, PSNR from the MSE of the whole clip. psnr_first_frame: of frame 0.
    psnr_keyframe: of the decoded keyframe. psnr_warp, psnr_warp_decoded: of W(x_0, m) and W(x^_0, m^) against frames
    1 .. t - 1; None where the model has no such component.
    """
    data = replace(config.data, frame_stride=stride)
    long_enough = tuple(entry for entry in index.split("validation") if entry.num_frames >= data.clip_span)
    if not long_enough:
        return
    clips = FixedClips(replace(index, entries=long_enough), data, "validation", config.ablation.clips_per_video)
    for start in range(0, len(clips), BATCH):
        positions = range(start, min(start + BATCH, len(clips)))
        video = collate([clips[i] for i in positions])["video"]
        scores = score_batch(model.decode_components(video.to(model.device)), video)
        for i, position in enumerate(positions):
            clip = clips.describe(position)
            values = {name: None if score is None else round(float(score[i]), 5) for name, score in scores.items()}
            yield {"path": str(clip["path"]), "start": clip["start"], "stride": stride, **values}


def score_batch(components: dict[str, Tensor], video: Tensor) -> dict[str, Tensor | None]:
    """Scores (b,) of decoded components (b, 3, t, h, w) against the clip `video` of the same shape, in [-1, 1]."""
    shown = {name: to_uint8(x.cpu()) for name, x in components.items() if "motion" not in name}  # (b, t, h, w, 3)
    true, decoded = to_uint8(video), shown["reconstruction"]

    def compare(name: str, frames: slice) -> Tensor | None:
        return psnr(shown[name][:, frames], true[:, frames]) if name in shown else None

    has_ssim = min(video.shape[-2:]) >= SMALLEST_SSIM
    return {
        "psnr": psnr(decoded, true),
        "ssim": ssim(decoded, true) if has_ssim else None,
        "psnr_first_frame": compare("reconstruction", slice(0, 1)),
        "psnr_keyframe": compare("decoded_keyframe", slice(0, 1)),
        "psnr_warp": compare("warped", slice(1, None)),
        "psnr_warp_decoded": compare("decoded_warped", slice(1, None)),
    }


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
