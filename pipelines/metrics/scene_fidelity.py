"""How far generated videos are pictures of the embedded world: how near they are to the scene read from them."""

import torch
from torch import Tensor

from pipelines.metrics.declared import HIGHER, IF_MEASURED, ITS_RECORD, Metric, declare

PASS_SHARE = 0.95  # of decoded held-out clips that are accepted: what sets the threshold

for name, meaning, is_detail in (
    (
        "accepted",
        f"Share of generated videos that are as near to a drawn scene as {PASS_SHARE:.0%} of held-out clips are that "
        "went through the autoencoder (embedded shapes only).",
        False,
    ),
    (
        "fidelity",
        "Energy of the shape that a video shows, drawn anew, over that of all differences, mean in dB: 0 = no shape.",
        True,
    ),
    ("fidelity_real", "The same of held-out clips that went through the autoencoder.", True),
):
    declare(Metric(name, meaning, HIGHER, ITS_RECORD, is_detail=is_detail, summary=IF_MEASURED))


def accepted(fidelity: Tensor, real: Tensor) -> tuple[float, float]:
    """Share of `fidelity` (n,) at or above the level that PASS_SHARE of `real` (m,) reach, and that level in dB."""
    level = torch.quantile(real.double(), 1 - PASS_SHARE, interpolation="lower")
    return float((fidelity.double() >= level).double().mean()), float(level)
