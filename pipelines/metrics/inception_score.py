"""Inception score: how sure a classifier is of every video or frame, and how varied its answers are over all."""

import torch
from torch import Tensor

from pipelines.metrics.declared import HIGHER, ITS_RECORD, Metric, declare

declare(
    Metric(
        "inception_score_i3d",
        "How sure the I3D network is of a video, and how varied its answers are. Higher is better.",
        HIGHER,
        compared_by="{fvd16_record[id]}",  # of the same videos
    )
)
declare(
    Metric(
        "inception_score_torchvision",
        "Inception score of single frames, with torchvision's weights. Higher is better.",
        HIGHER,
        ITS_RECORD,
    )
)


def inception_score(logits: Tensor) -> float:
    """exp of the mean KL divergence of p(class | video) from p(class), of one set (Salimans et al. 2016).

    logits: (n, classes) before the softmax.
    """
    log_p = torch.log_softmax(logits.double(), dim=1)
    marginal = torch.logsumexp(log_p, dim=0) - torch.log(torch.tensor(len(log_p), dtype=torch.float64))
    return (log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp().item()
