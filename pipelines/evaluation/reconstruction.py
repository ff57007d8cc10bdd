"""How well an autoencoder gives held-out clips back: PSNR, SSIM, LPIPS, and I3D features of either side."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.evaluation.autoencoders import DiffusersAutoencoder, class_of, open_autoencoder
from pipelines.evaluation.context import uncached
from pipelines.evaluation.extractor import open_extractor
from pipelines.experiment import Experiment
from pipelines.metrics.clip_set import spread
from pipelines.metrics.frame_quality import load_lpips, lpips_available, lpips_distance, psnr, ssim
from pipelines.metrics.i3d import MIN_FRAMES
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.rfvd import reconstruction_records

BATCH, PIXELS_OF_BATCH = 16, 16 * 64 * 64  # clips coded at once, fewer of larger ones
CLIP_FRAMES = 16  # frames of the clips whose I3D features are compared
# Components whose PSNR against the clip itself means something.
SCORED_AS_VIDEO = {"reconstruction": "psnr", "warped": "psnr_warp_only", "decoded_warped": "psnr_warp_decoded"}


def score_reconstruction(folder: Path, config: Experiment, index: ClipIndex, device: torch.device) -> dict[str, Any]:
    """Means over held-out clips, over frames 1 .. t - 1, on uint8; PSNR from the MSE of the whole clip.

    folder: of an autoencoder of ours or of diffusers. With evaluate.rfvd_clips also rfvd and rfvd_per_clip.
    """
    options, clips = config.evaluate, FixedClips(index, uncached(config.data), "validation")
    vae = open_autoencoder(folder, device)
    chosen = spread(len(clips), options.reconstruction_clips)
    lpips = None
    if lpips_available(options.weights_dir, options.lpips_network):
        lpips = load_lpips(options.weights_dir, options.lpips_network).to(device)
    extractor = open_extractor(config) if options.rfvd_clips and config.data.num_frames >= MIN_FRAMES else None
    values: dict[str, list[Tensor]] = {}
    features: list[tuple[Tensor, Tensor]] = []
    at_once = max(1, min(BATCH, PIXELS_OF_BATCH // config.data.resolution**2))
    size = 1 if isinstance(vae, DiffusersAutoencoder) else at_once
    for start in range(0, len(chosen), size):
        video = collate([clips[i] for i in chosen[start : start + size]])["video"]
        scored = score_batch(vae, video, device)
        reconstruction, true = scored.pop("reconstruction"), to_uint8(video)
        if lpips is not None:
            scored[f"lpips_{options.lpips_network}"] = lpips_distance(lpips, reconstruction[:, 1:], true[:, 1:])
        for name, scores in scored.items():
            values.setdefault(name, []).append(scores.float())
        if extractor is not None and start < options.rfvd_clips:
            both = (true[: options.rfvd_clips - start], reconstruction[: options.rfvd_clips - start])
            features.append(tuple(extractor.features(side[:, :CLIP_FRAMES]) for side in both))
    missing = dict.fromkeys(SCORED_AS_VIDEO.values())  # a model without motion has no warp to score
    means = {name: float(torch.cat(scores).mean()) for name, scores in values.items()}
    return missing | means | {"clips": len(chosen)} | distances(features, extractor, class_of(folder))


def score_batch(vae: nn.Module, video: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Scores per clip by name, and "reconstruction" itself as (b, t, h, w, 3) uint8. video: (b, 3, t, h, w)."""
    components = {name: crop_like(part.cpu(), video) for name, part in vae.components(video.to(device)).items()}
    true = to_uint8(video)
    shown = {"psnr_copy_first_frame": true[:, :1].expand_as(true)}
    shown |= {name: to_uint8(components[part]) for part, name in SCORED_AS_VIDEO.items() if part in components}
    scores = {name: psnr(frames[:, 1:], true[:, 1:]) for name, frames in shown.items()}
    scores["ssim"] = ssim(shown["psnr"][:, 1:], true[:, 1:])
    if "keyframe" in components:
        pair = (to_uint8(components[part])[:, :1] for part in ("decoded_keyframe", "keyframe"))
        scores["psnr_keyframe"] = psnr(*pair)
    return scores | {"reconstruction": shown["psnr"]}


def distances(features: list[tuple[Tensor, Tensor]], extractor: FeatureExtractor | None, model: str) -> dict[str, Any]:
    """rfvd and rfvd_per_clip with their records, {} where no features were wanted; model: class of the autoencoder."""
    if extractor is None or not features:
        return {}
    original, reconstruction = (torch.cat(side) for side in zip(*features, strict=True))
    scores: dict[str, Any] = {}
    for record in reconstruction_records(original, reconstruction, extractor, CLIP_FRAMES):
        name = str(record["name"])
        scores |= {name: record["value"], f"{name}_record": {**record, "model": model}}
    return scores


def crop_like(component: Tensor, video: Tensor) -> Tensor:
    """Undo the padding: (b, 3, t', h', w') -> the shape of `video` (b, 3, t, h, w)."""
    num_frames, height, width = video.shape[2:]
    return component[:, :, :num_frames, :height, :width]
