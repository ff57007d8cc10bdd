"""Golden values of the public I3D weights: what network, preprocessing and file must give before any score counts."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import TORCHSCRIPT_FILE, FeatureExtractor

BATCH = 4


@dataclass(frozen=True)
class Golden:
    """Distances that others measured with the public weights, and how far off we may be."""

    black_to_white: float = 151.2565  # 30 black frames of 64 x 64 against 30 white ones
    black_to_white_tolerance: float = 0.1
    noise: float = 10.138085  # two sets of uniform noise of 16 x 224 x 224, the network fed [0, 1]
    noise_tolerance: float = 0.05
    noise_clips: int = 128  # clips in either set


# JunyaoHu/common_metrics_on_video_quality prints 151.2565 for TorchScript (and 151.39 with TensorFlow), universome/
# fvd-comparison 10.13808. The state dict's batch norms round otherwise: an older state of the former prints 151.17.
GOLDEN_TORCHSCRIPT = Golden()
GOLDEN_STATE_DICT = Golden(black_to_white_tolerance=1.0, noise_tolerance=0.5)


def golden_for(weights_file: str) -> Golden:
    """The values that a file of weights must reach."""
    return GOLDEN_TORCHSCRIPT if weights_file == TORCHSCRIPT_FILE else GOLDEN_STATE_DICT


def self_check(extractor: FeatureExtractor, golden: Golden) -> dict[str, float]:
    """The golden distances as `extractor` measures them; call it in fp32. ValueError where one is off.

    Black against white goes through the preprocessing of uint8 clips; all clips of a side are equal, so the distance of
    the sets is that of two clips. The noise is drawn as its authors drew it and bypasses the preprocessing.
    """
    black, white = (torch.full((1, 30, 64, 64, 3), level, dtype=torch.uint8) for level in (0, 255))
    between = (extractor.features(black) - extractor.features(white)).double().square().sum().item()
    sides = [FeatureStatistics.of(noise_features(extractor, seed, golden.noise_clips)) for seed in (1, 2)]
    noise = frechet_distance(*sides, unbiased=True)
    measured = {"black_to_white": between, "noise": noise}
    for name, value in measured.items():
        expected, tolerance = getattr(golden, name), getattr(golden, f"{name}_tolerance")
        if not abs(value - expected) <= tolerance:
            raise ValueError(
                f"I3D from {extractor.weights_file} fails its self-check: the distance {name} is {value:.4f}, expected "
                f"{expected} within {tolerance}; check evaluate.i3d_bn_eps (now {extractor.bn_eps}), or use the public "
                f"{TORCHSCRIPT_FILE}"
            )
    return measured


def noise_features(extractor: FeatureExtractor, seed: int, num_clips: int) -> Tensor:
    """(num_clips, 400) features of numpy's legacy uniform noise, (16, 224, 224, 3) per clip, drawn in their order."""
    random = np.random.RandomState(seed)
    features = []
    for start in range(0, num_clips, BATCH):
        noise = random.rand(min(BATCH, num_clips - start), 16, 224, 224, 3).astype(np.float32)
        features.append(extractor.prepared_features(rearrange(torch.from_numpy(noise), "n t h w c -> n c t h w")))
    return torch.cat(features)
