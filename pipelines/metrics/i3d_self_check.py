"""Golden values of the public I3D weights: what network, preprocessing and file must give before any score counts."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import FeatureExtractor

BATCH = 4
NOISE_CLIPS = 128  # clips in either set
# What others measured: two sets of uniform noise of 16 x 224 x 224, the network fed [0, 1] (universome/fvd-comparison).
NOISE = 10.138085


@dataclass(frozen=True)
class Golden:
    """The squared feature distance of 30 black frames of 64 x 64 to 30 white ones, and how far off we may be."""

    distance: float
    tolerance: float


# JunyaoHu/common_metrics_on_video_quality prints 151.39 for TensorFlow's original and 151.2565 for TorchScript.
# VideoGPT's batch norms round otherwise: an older state of the same project prints 151.17.
GOLDEN = {
    "i3d_kinetics400.safetensors": Golden(151.3925, 0.01),
    "i3d_torchscript.pt": Golden(151.2565, 0.1),
    "i3d_pretrained_400.pt": Golden(151.2565, 1.0),
}


def self_check(extractor: FeatureExtractor, golden: Golden) -> float:
    """The distance of black to white as `extractor` measures it; call it in fp32. ValueError where it is off.

    The frames go through the preprocessing of uint8 clips; all clips of a side are equal, so the distance of the sets
    is that of two clips. It takes seconds, and sees another network, preprocessing or epsilon of batch norms.
    """
    black, white = (torch.full((1, 30, 64, 64, 3), level, dtype=torch.uint8) for level in (0, 255))
    measured = (extractor.features(black) - extractor.features(white)).double().square().sum().item()
    if not abs(measured - golden.distance) <= golden.tolerance:
        raise ValueError(
            f"I3D from {extractor.weights_file} fails its self-check: black and white are {measured:.4f} apart, "
            f"expected {golden.distance} within {golden.tolerance}: this machine's torch computes something else"
        )
    return measured


def noise_distance(extractor: FeatureExtractor, num_clips: int = NOISE_CLIPS) -> float:
    """The Fréchet distance between two sets of uniform noise, expected to be NOISE; minutes on a CPU.

    The noise is drawn as its authors drew it and bypasses the preprocessing; covariances are divided by n - 1.
    """
    sides = [FeatureStatistics.of(noise_features(extractor, seed, num_clips)) for seed in (1, 2)]
    return frechet_distance(*sides, unbiased=True)


def noise_features(extractor: FeatureExtractor, seed: int, num_clips: int) -> Tensor:
    """(num_clips, 400) features of numpy's legacy uniform noise, (16, 224, 224, 3) per clip, drawn in their order."""
    random = np.random.RandomState(seed)
    features = []
    for start in range(0, num_clips, BATCH):
        noise = random.rand(min(BATCH, num_clips - start), 16, 224, 224, 3).astype(np.float32)
        features.append(extractor.prepared_features(rearrange(torch.from_numpy(noise), "n t h w c -> n c t h w")))
    return torch.cat(features)
