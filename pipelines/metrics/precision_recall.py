"""Precision and recall of generated videos in the features of a network (Kynkäänniemi et al. 2019, section 2)."""

import torch
from torch import Tensor

from pipelines.metrics.declared import HIGHER, IF_MEASURED, ITS_RECORD, Metric, declare

NEIGHBOURS = 3  # k of the paper
for network, words in {"i3d": "I3D features of videos", "vgg": "VGG16 features of frames"}.items():
    declare(
        Metric(
            f"precision_{network}",
            f"Share of generated videos that lie among real ones, in {words}. Read it beside that of two real sets.",
            HIGHER,
            ITS_RECORD,
            summary=IF_MEASURED,
        )
    )
    declare(
        Metric(
            f"recall_{network}",
            f"Share of real clips that lie among generated ones, in {words}: what is never made lowers it.",
            HIGHER,
            ITS_RECORD,
            summary=IF_MEASURED,
        )
    )


def radii(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(n, d) -> (n,): the distance of every feature to its k-th nearest other one; k is less where n is small."""
    distances = torch.cdist(features.double(), features.double())
    place = min(neighbours, len(features) - 1)  # the nearest is the feature itself, at 0
    return distances.kthvalue(place + 1, dim=1).values


def share_inside(features: Tensor, manifold: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """Share of `features` (m, d) that lie within the radius of at least one feature of `manifold` (n, d) (Eq. 1)."""
    distances = torch.cdist(features.double(), manifold.double())
    return float((distances <= radii(manifold, neighbours)).any(dim=1).double().mean())


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """(precision, recall) of Eq. 2. real: (n, d), generated: (m, d), both at least 2."""
    return share_inside(generated, real, neighbours), share_inside(real, generated, neighbours)
