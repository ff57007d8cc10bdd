"""Diversity of generated videos within a class, as a fraction of that of real clips; distance to the nearest clip."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

DOWNSAMPLING = 8  # pixels per side of one averaged cell


def mean_pairwise_distance(video_uint8: Tensor) -> float:
    """video_uint8: (n, t, h, w, 3) uint8, n >= 2 -> mean over pairs of the RMS difference, in [0, 1].

    Frames are averaged over 8 x 8 cells first: what is compared is layout, colour and motion. Noise and other fine
    differences, which a collapsed generator may still show, hardly count.
    """
    vectors = _coarse(video_uint8)
    return (torch.pdist(vectors).mean() / vectors.shape[1] ** 0.5).item()


def nearest_distances(video_uint8: Tensor, reference_uint8: Tensor) -> Tensor:
    """video_uint8: (n, t, h, w, 3) uint8, reference_uint8: (m, t, h, w, 3) uint8 -> (n,) RMS difference in [0, 1] of
    each video to the nearest reference clip, over 8 x 8 cells as above.

    Of generated videos to training clips: as far as that of held-out real clips for a generator that invents, far less
    for one that copies.
    """
    vectors, references = _coarse(video_uint8), _coarse(reference_uint8)
    exact = "donot_use_mm_for_euclid_dist"  # by way of |a|^2 - 2 a b + |b|^2 a copy would not have distance 0
    return torch.cdist(vectors, references, compute_mode=exact).amin(dim=1) / vectors.shape[1] ** 0.5


def _coarse(video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n, values) in [0, 1], means over cells of every frame."""
    frames = rearrange(video_uint8, "n t h w c -> (n t) c h w").float() / 255
    cell = min(DOWNSAMPLING, *frames.shape[2:])
    return rearrange(F.avg_pool2d(frames, cell), "(n t) c h w -> n (t c h w)", n=video_uint8.shape[0])


def diversity(
    fake_uint8: Tensor, fake_labels: Tensor, real_uint8: Tensor, real_labels: Tensor
) -> tuple[float, dict[int, float]]:
    """Mean over classes of (mean pairwise distance of generated videos) / (that of real clips), and each class's ratio.

    fake_uint8, real_uint8: (n, t, h, w, 3) uint8; *_labels: (n,) int, equal labels for a set without classes. About 1
    for a faithful generator, 0 for one that repeats one video per class. Classes with fewer than 2 clips on either side
    are left out; ValueError when none is left.
    """
    ratios: dict[int, float] = {}
    for label in sorted(set(fake_labels.tolist()) & set(real_labels.tolist())):
        fake, real = fake_uint8[fake_labels == label], real_uint8[real_labels == label]
        if min(len(fake), len(real)) >= 2:
            real_distance = mean_pairwise_distance(real)
            if real_distance == 0:
                raise ValueError(f"all real clips of class {label} are identical; give diversity different ones.")
            ratios[label] = mean_pairwise_distance(fake) / real_distance
    if not ratios:
        raise ValueError("diversity needs a class with 2 generated and 2 real clips, got none; sample more per class.")
    return sum(ratios.values()) / len(ratios), ratios
