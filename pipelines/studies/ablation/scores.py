"""The scores of one run of an ablation, clip by clip, and what its model costs: runs/NAME/RUN/scores.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.scoring_networks import open_extractor
from pipelines.metrics.components import SCORED_COMPONENTS, score_components
from pipelines.metrics.i3d import MIN_FRAMES
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES, SMALLEST_FOR_LPIPS, load_lpips, lpips_distance
from pipelines.metrics.rfvd import reconstruction_records
from pipelines.metrics.weight_files import find_weights
from pipelines.run.folder import write_json
from pipelines.run.ranks import choose_device
from pipelines.studies.ablation.options import AblationStudy
from pipelines.train_vae import STAGE
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

BATCH, CLIP_FRAMES = 8, 16  # clips at once; frames that I3D sees
OF_COMPONENTS = ("psnr", "ssim", "psnr_first_frame", "psnr_keyframe", "psnr_warp_only", "psnr_warp_decoded")
OF_NETWORKS = ("lpips_alex", "lpips_vgg", "rfvd_per_clip")  # None where the networks' files are not in weights.folder
METRICS = (*OF_COMPONENTS, *OF_NETWORKS)


@dataclass(frozen=True)
class Networks:
    """The pretrained networks that judge a reconstruction, as far as their files are there."""

    lpips: Mapping[str, nn.Module]  # by the name of the score
    i3d: FeatureExtractor | None

    @classmethod
    def open(cls, config: AblationStudy) -> "Networks":
        """From weights.folder; I3D in evaluate.i3d_precision."""
        folder, device = config.weights.folder, choose_device(config.run.device)
        lpips = {
            f"lpips_{network}": load_lpips(folder, network).to(device)
            for network, backbone in LPIPS_BACKBONES.items()
            if find_weights(folder, backbone) and config.data.resolution >= SMALLEST_FOR_LPIPS
        }
        is_there = find_weights(folder, "i3d") and config.data.num_frames >= MIN_FRAMES
        return cls(lpips, open_extractor(config) if is_there else None)

    def judge(self, true: Tensor, reconstruction: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Scores (n,) by name, and the I3D features (n, 400) of either side: [] without I3D.

        true, reconstruction: (n, t, h, w, 3) uint8.
        """
        scores = {name: lpips_distance(network, true, reconstruction) for name, network in self.lpips.items()}
        if self.i3d is None:
            return scores, []
        features = [self.i3d.features(video[:, :CLIP_FRAMES]) for video in (true, reconstruction)]
        scores["rfvd_per_clip"] = (features[0] - features[1]).double().square().sum(dim=1)
        return scores, features


def score_run(config: AblationStudy) -> None:
    """Score the last averaged weights of a run on all held-out files, unless that was done with the same options."""
    file = run_path(config) / "scores.json"
    options = scoring_options(config)
    if file.exists() and json.loads(file.read_text())["options"] == options:
        return
    model = load_autoencoder(resolve_model("", run_path(config), STAGE, which="last"))
    model = model.to(choose_device(config.run.device))
    index, networks, features = open_index(config), Networks.open(config), list[list[Tensor]]()
    clips = [
        clip for stride in options["strides"] for clip in score_clips(model, config, index, stride, networks, features)
    ]
    scores = {"options": options, "model": describe_model(model, config), "clips": clips}
    if networks.i3d is not None:
        sides = [torch.cat(side) for side in zip(*features, strict=True)]
        scores["sets"] = reconstruction_records(sides[0], sides[1], networks.i3d, CLIP_FRAMES)
    write_json(file, scores)


def scoring_options(config: AblationStudy) -> dict[str, Any]:
    """What decides which clips are scored, and by what."""
    section = config.ablation
    strides = list(section.strides) or [config.data.frame_stride]
    names = [*LPIPS_BACKBONES.values(), "i3d"]
    there = [path.name for name in names if (path := find_weights(config.weights.folder, name))]
    return {"strides": strides, "clips_per_video": section.clips_per_video, "metrics": list(METRICS), "weights": there}


@torch.no_grad()
def score_clips(
    model: VideoAutoencoder,
    config: AblationStudy,
    index: ClipIndex,
    stride: int,
    networks: Networks,
    features: list[list[Tensor]],
) -> Iterator[dict[str, str | float | None]]:
    """Yields {"path", "start", "stride", "psnr", ...} of every held-out clip; files too short for the stride drop out.

    The names of pipelines/metrics/components.py; psnr, ssim and lpips count all frames. None where the model has no
    such component. features: takes the I3D features of every batch, [originals, reconstructions].
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
        true = to_uint8(video)
        scores = score_components(shown, true, OF_COMPONENTS)
        judged, both = networks.judge(true, shown["reconstruction"])
        scores |= judged
        features += [both] if both else []
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
