"""Diversity of generated videos within a class, as a fraction of that of real clips; distance to the nearest clip."""

from collections.abc import Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.declared import ALWAYS, HELD_OUT_CLIPS, ONE, Metric, declare

DOWNSAMPLING = 8  # pixels per side of one averaged cell
COMPARED_PER_CLASS = 64  # videos of a class, on either side, whose pairwise distances are taken


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


def diversity(generated: ClipSet, real: ClipSet) -> float | None:
    """Mean over classes of (mean pairwise distance of generated videos) / (that of real clips).

    About 1 for a faithful generator, 0 for one that repeats one video per class. Generated videos without labels are
    one class, and so are the real clips then. None where no class has 2 clips on either side. Only the videos of one
    class are in memory at a time, as many frames of them as both sides have.
    """
    generated_labels = generated.labels.tolist()
    real_labels = [-1] * len(real) if -1 in generated_labels else real.labels.tolist()
    ratios = []
    for label in sorted(set(generated_labels)):
        sides = [_of_class(generated, generated_labels, label), _of_class(real, real_labels, label)]
        if min(len(side) for side in sides) >= 2:
            num_frames = min(len(side[0]) for side in sides)
            fake, held_out = (mean_pairwise_distance(side.cut(num_frames).stacked()) for side in sides)
            if held_out == 0:
                raise ValueError(f"all real clips of class {label} are identical; give diversity different ones.")
            ratios.append(fake / held_out)
    return fmean(ratios) if ratios else None


def _of_class(clips: ClipSet, labels: Sequence[int], label: int) -> ClipSet:
    """Evenly spaced clips of one class, of all where it is -1."""
    positions = [position for position, known in enumerate(labels) if label in (known, -1)]
    return clips.subset(positions).thinned(COMPARED_PER_CLASS)


declare(
    Metric(
        "diversity",
        "Mean pairwise distance of generated videos within a class over that of real clips: about 1 when faithful, 0 "
        "when one video repeats.",
        ONE,
        HELD_OUT_CLIPS,
        summary=ALWAYS,
        score=diversity,
    )
)
