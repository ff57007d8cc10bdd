"""Whether videos show the grid of the latents: steps across the borders of cells, over steps inside them."""

import torch
from torch import Tensor

from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.declared import HELD_OUT_CLIPS, IF_MEASURED, ITS_RECORD, LOWER, Metric, declare

CELL = 8  # pixels that a latent of every autoencoder here spans


def border_steps(video_uint8: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over (t, h, w, 3) uint8 of the absolute differences of neighbouring pixels, and how many there are.

    Both (2,): across the borders of CELL x CELL cells, and inside them.
    """
    sums, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for axis in (1, 2):
        steps = video_uint8.int().diff(dim=axis).abs().double()
        is_border = (torch.arange(steps.shape[axis]) + 1) % CELL == 0
        for side, chosen in enumerate((is_border, ~is_border)):
            own = steps.index_select(axis, chosen.nonzero().flatten())
            sums[side] += own.sum()
            counts[side] += own.numel()
    return sums, counts


def border_ratio(clips: ClipSet) -> float | None:
    """Mean step across borders over mean step inside, 1 without a grid; None for frames of one cell or one colour."""
    sums, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for position in range(len(clips)):
        own_sums, own_counts = border_steps(clips[position])
        sums, counts = sums + own_sums, counts + own_counts
    if not counts[0] or not sums[1]:
        return None
    border, inside = (sums / counts).tolist()
    return float(border / inside)


def blockiness(generated: ClipSet, real: ClipSet) -> float | None:
    """The ratio of generated videos over that of real clips, whose codec may have drawn a grid of its own."""
    ratios = border_ratio(generated), border_ratio(real)
    return ratios[0] / ratios[1] if ratios[0] and ratios[1] else None


declare(
    Metric(
        "blockiness",
        "Steps across the borders of 8 x 8 pixels over steps inside them, beside the same of real clips: 1 without "
        "such a grid, 2 where it is plain to see.",
        LOWER,
        HELD_OUT_CLIPS,
        summary=IF_MEASURED,
        score=blockiness,
    )
)
declare(
    Metric(
        "blockiness_decoded",
        "The same of held-out clips that went through the autoencoder, beside themselves before.",
        LOWER,
        ITS_RECORD,
        is_detail=True,
        summary=IF_MEASURED,
    )
)
