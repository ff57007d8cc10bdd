"""How well an autoencoder gives held-out clips back: PSNR, SSIM, LPIPS, and I3D features of either side."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.scoring_networks import open_extractor, open_lpips
from pipelines.inputs.weights_used import weights_found
from pipelines.metrics.clip_set import evenly_spaced
from pipelines.metrics.components import FIRST_FRAME, SCORED_COMPONENTS, score_components
from pipelines.metrics.i3d import MIN_FRAMES
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.lpips_distance import lpips_distance
from pipelines.metrics.rfvd import reconstruction_records
from pipelines.parts.evaluate.autoencoders import DiffusersAutoencoder, class_of, open_autoencoder
from pipelines.parts.evaluate.context import uncached
from pipelines.run.folder import git_commit
from pipelines.run.hashes import hash_folder
from pipelines.run.ranks import shared
from vae.interface import crop

BATCH, PIXELS_OF_BATCH = 16, 16 * 64 * 64  # clips coded at once, fewer of larger ones
CLIP_FRAMES = 16  # frames of the clips whose I3D features are compared, where they have so many
OF_COMPONENTS = ("psnr_warp_only", "psnr_warp_decoded")  # null for a model without motion, which has no warp
NAMES = ("psnr", "psnr_copy_first_frame", *OF_COMPONENTS, "ssim", "psnr_keyframe")


def rfvd_extractor(config: Experiment) -> FeatureExtractor | None:
    """I3D for rfvd, None where it is not wanted or not there, or clips are too short; to be called by all processes."""
    is_wanted = config.evaluate.rfvd_clips and config.data.num_frames >= MIN_FRAMES
    return open_extractor(config) if is_wanted and weights_found(config)["i3d"] else None


def score_autoencoder(
    folder: Path, config: Experiment, index: ClipIndex, device: torch.device, extractor: FeatureExtractor | None
) -> dict[str, Any]:
    """Means over the frames of held-out clips, on uint8, then over clips.

    folder: of an autoencoder of ours or of diffusers. With an extractor also rfvd and rfvd_per_clip. To be called by
    all processes, which share the clips.
    """
    options, clips = config.evaluate, FixedClips(index, uncached(config.data), "validation")
    vae = open_autoencoder(folder, device)
    chosen = evenly_spaced(len(clips), options.reconstruction_clips)
    lpips = open_lpips(config, device)
    num_frames = min(CLIP_FRAMES, config.data.num_frames)
    at_once = max(1, min(BATCH, PIXELS_OF_BATCH // config.data.resolution**2))
    size = 1 if isinstance(vae, DiffusersAutoencoder) else at_once

    def score_batch(start: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Values per clip, and I3D features of both sides of those clips that rfvd compares."""
        video = collate([clips[i] for i in chosen[start : start + size]])["video"]
        true, shown = to_uint8(video), components_of(vae, video.to(device))
        reconstruction = shown["reconstruction"]
        scored = score_components(shown, true, NAMES)
        if lpips is not None:
            scored[f"lpips_{options.lpips_network}"] = lpips_distance(lpips, reconstruction, true)
        sides = [side[: max(options.rfvd_clips - start, 0), :num_frames] for side in (true, reconstruction)]
        features = [extractor.features(side) for side in sides if extractor is not None and len(side)]
        return {name: scores.float().cpu() for name, scores in scored.items()}, features

    batches = shared(
        [partial(score_batch, start) for start in range(0, len(chosen), size)], "evaluate: reconstructions"
    )
    means = {name: float(torch.cat([scored[name] for scored, _ in batches]).mean()) for name in batches[0][0]}
    about = {
        "model": class_of(folder),
        "weights_of_model": hash_folder(folder),
        "split": "validation",
        "stride": config.data.frame_stride,
        "resolution": config.data.resolution,
        "resize": "antialiased",
        "codec": "none: compared in memory, as uint8",
        "seeds": "none: posterior means of the same frames of each file",
        "data": index.fingerprint,
        "code_version": git_commit(),
    }
    missing = dict.fromkeys(("psnr", *OF_COMPONENTS))
    compared = [features for _, features in batches if features]
    return missing | means | {"clips": len(chosen)} | distances(compared, extractor, num_frames, about)


def components_of(vae: nn.Module, video: Tensor) -> dict[str, Tensor]:
    """What is scored of clips (b, 3, t, h, w) in [-1, 1], by name: (b, t, h, w, 3) uint8 on the CPU."""
    components = {name: x for name, x in vae.components(video).items() if name in SCORED_COMPONENTS}
    shown = {name: to_uint8(crop(x.cpu(), video.shape[2:])) for name, x in components.items()}
    true = to_uint8(video.cpu())
    return shown | {FIRST_FRAME: true[:, :1].expand_as(true)}


def distances(
    features: list[list[Tensor]], extractor: FeatureExtractor | None, num_frames: int, about: dict[str, Any]
) -> dict[str, Any]:
    """rfvd and rfvd_per_clip with their records, {} where no features were wanted; about: the clips and the model."""
    if extractor is None or not features:
        return {}
    original, reconstruction = (torch.cat(side) for side in zip(*features, strict=True))
    scores: dict[str, Any] = {}
    for record in reconstruction_records(original, reconstruction, extractor, num_frames):
        name = str(record["name"])
        scores |= {name: record["value"], f"{name}_record": {**record, **about}}
    return scores
