"""Video distance of reconstructions, in both senses of "rFVD": one Frechet distance, and the mean distance per clip."""

from typing import Any

import torch
from torch import Tensor

from pipelines.metrics.declared import ITS_RECORD, LOWER, RECONSTRUCTION, Metric, declare
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import FeatureExtractor, weights_word

for name, meaning in {
    "rfvd": "One Fréchet distance between the I3D features of held-out clips and of their reconstructions.",
    "rfvd_per_clip": "Mean squared distance between the I3D features of a clip and of its reconstruction: what papers "
    "of this family call rFVD.",
    "proxy_rfvd": "PROXY: rfvd with random weights.",
    "proxy_rfvd_per_clip": "PROXY: rfvd_per_clip with random weights.",
}.items():
    declare(Metric(name, meaning, LOWER, ITS_RECORD, RECONSTRUCTION))


def clip_starts(num_frames: int, clip_frames: int, wanted: int) -> list[int]:
    """First frames of at most `wanted` clips of `clip_frames` frames that do not overlap, spread over a video."""
    count = min(wanted, num_frames // clip_frames)
    return torch.linspace(0, num_frames - clip_frames, count).round().long().tolist() if count else []


class ClipFeatures:
    """I3D features of clips of a video that comes piece by piece; at most one clip of frames is kept.

    The centre square of the frames is seen: I3D resizes to 224 x 224, and would see other shapes distorted.
    """

    def __init__(self, extractor: FeatureExtractor, starts: list[int], clip_frames: int) -> None:
        self.extractor, self.starts, self.clip_frames = extractor, starts, clip_frames
        self._position, self._waiting = 0, list[Tensor]()
        self._features: list[Tensor] = []

    def add(self, frames_uint8: Tensor) -> None:
        """frames_uint8: (t, h, w, 3) uint8, the next frames of the video."""
        _, height, width, _ = frames_uint8.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        for frame in frames_uint8.narrow(1, top, side).narrow(2, left, side):
            if len(self._features) < len(self.starts) and self._position >= self.starts[len(self._features)]:
                self._waiting.append(frame.clone())  # not a view of the piece
            if len(self._waiting) == self.clip_frames:
                self._features.append(self.extractor.features(torch.stack(self._waiting).unsqueeze(0)))
                self._waiting.clear()
            self._position += 1

    @property
    def features(self) -> Tensor:
        """(clips, 400) fp32; (0, 400) for a video shorter than a clip."""
        return torch.cat(self._features) if self._features else torch.zeros(0, 400)


def reconstruction_distances(original: Tensor, reconstruction: Tensor, is_proxy: bool) -> dict[str, float | int | None]:
    """Both distances between the features of originals and of their reconstructions, named apart.

    `rfvd`: the Frechet distance between the two sets, which needs many clips (with few it is biased upward, with one
    it is None). `rfvd_per_clip`: the mean over clips of |f - f^|^2. The latter is what the scripts of LeanVAE, WF-VAE
    and Open-Sora-Plan print as rFVD: they call the Frechet distance with one clip at a time, for which the covariances
    are left out. Names begin with `proxy_` where the features are not those of trained I3D weights.

    original, reconstruction: (n, 400) features of the same clips, in the same order.
    """
    prefix = "proxy_" if is_proxy else ""
    num_clips = len(original)
    whole, per_clip = None, None
    if num_clips:
        per_clip = (original - reconstruction).double().square().sum(dim=1).mean().item()
    if num_clips > 1:
        whole = frechet_distance(FeatureStatistics.of(original), FeatureStatistics.of(reconstruction))
    return {f"{prefix}rfvd": whole, f"{prefix}rfvd_per_clip": per_clip, "rfvd_clips": num_clips}


def reconstruction_records(
    original: Tensor, reconstruction: Tensor, extractor: FeatureExtractor, clip_frames: int
) -> list[dict[str, Any]]:
    """`reconstruction_distances` as records with an id of their own: no FVD is ever called rfvd-per-clip.

    original, reconstruction: (n, 400) features of clips of `clip_frames` frames. A distance that does not exist (rfvd
    of one clip) has no record.
    """
    values = reconstruction_distances(original, reconstruction, extractor.is_proxy)
    facts = {
        "num_videos": len(original),
        "num_frames": clip_frames,
        "weights_file": extractor.weights_file,
        "weights_hash": extractor.weights_hash,
        "precision": extractor.precision,
    }
    records = []
    for name, value in values.items():
        if name != "rfvd_clips" and value is not None:
            words = [name.replace("_per_clip", "-per-clip"), f"t{clip_frames}", f"n{len(original)}"]
            words += [extractor.precision] if extractor.precision != "fp32" else []
            words += filter(None, [weights_word(extractor.weights_file, extractor.weights_hash)])
            score_id = "-".join(words)
            records.append({"id": score_id, "name": name, "value": value, **facts})
    return records
