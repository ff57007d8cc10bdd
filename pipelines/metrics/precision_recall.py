"""Precision and recall of generated videos in I3D's features (Kynkäänniemi et al. 2019, section 2)."""

import torch
from torch import Tensor

from pipelines.metrics.declared import HIGHER, IF_MEASURED, Metric, declare

NEIGHBOURS = 3  # k of the paper
BLOCK = 1024  # rows of distances that are in memory at once

for name, meaning in (
    ("precision_i3d", "Share of generated videos that lie among real ones in the features of fvd16."),
    ("recall_i3d", "Share of real clips that lie among generated ones in these features: what is missing lowers it."),
):
    declare(Metric(name, meaning, HIGHER, "{fvd16_record[id]}", summary=IF_MEASURED))


def radii(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(n, d) -> (n,): the distance of every feature to its k-th nearest other one; k is less where n is small."""
    place = min(neighbours, len(features) - 1) + 1  # the nearest is the feature itself, at 0
    return torch.cat([torch.cdist(rows, features).kthvalue(place, dim=1).values for rows in features.split(BLOCK)])


def share_inside(features: Tensor, manifold: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """Share of `features` (m, d) that lie within the radius of at least one feature of `manifold` (n, d) (Eq. 1)."""
    reach = radii(manifold, neighbours)
    inside = [(torch.cdist(rows, manifold) <= reach).any(dim=1) for rows in features.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """(precision, recall) of Eq. 2. real: (n, d), generated: (m, d), both at least 2."""
    real, generated = real.double().cpu(), generated.double().cpu()
    return share_inside(generated, real, neighbours), share_inside(real, generated, neighbours)
