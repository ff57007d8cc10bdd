"""Proxy metrics: Frechet distances in features that need no downloaded weights.

They compare samples of one data set with each other, as long as the features are the same; none of them is an FVD and
none compares with a published number. Every feature is divided by its standard deviation over the real clips, so that
units do not matter. docs/results/metric_sanity.md shows how they rank damage on real clips.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.metrics.frechet import FeatureStatistics, frechet_distance

CONSTANT = 1e-12  # a feature whose variance over real clips is at most this share of its mean square says nothing


class ProxyFeatures(Protocol):
    """What turns clips into the features of one or several proxy metrics, a row per clip."""

    @property
    def dimensions(self) -> Mapping[str, int]:
        """{name of the metric, proxy_...: number of features}."""
        ...

    def __call__(self, video_uint8: Tensor) -> Mapping[str, Tensor]:
        """(n, t, h, w, 3) uint8 -> {name: (n, d)} float on the CPU."""
        ...

    def record(self) -> dict[str, Any]:
        """What the features depend on, JSON-ready."""
        ...


def clip_features(video_uint8: Tensor, sources: Sequence[ProxyFeatures]) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n, d): the features of all sources side by side."""
    found = [source(video_uint8) for source in sources]
    return torch.cat([rows[name] for source, rows in zip(sources, found, strict=True) for name in source.dimensions], 1)


def proxy_records(sources: Sequence[ProxyFeatures], real: Tensor, fake: Tensor) -> dict[str, dict[str, Any]]:
    """{name: record of `proxy_record`} of every metric. real, fake: (n, d) and (m, d) from `clip_features`."""
    sizes = [size for source in sources for size in source.dimensions.values()]
    sides = zip(real.split(sizes, dim=1), fake.split(sizes, dim=1), strict=True)
    records = {}
    for source in sources:
        for name in source.dimensions:
            records[name] = proxy_record(name, *next(sides), source.record())
    return records


def proxy_record(name: str, real: Tensor, fake: Tensor, facts: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "value", "num_real", "num_fake", "dimensions", **facts}, JSON-ready; 0 is best.

    real: (n, d) and fake: (m, d), a row per clip.
    """
    value, dimensions = standardised_distance(FeatureStatistics.of(real), FeatureStatistics.of(fake))
    counts = {"num_real": len(real), "num_fake": len(fake), "dimensions": dimensions}
    return {"name": name, "value": value, **counts, **facts}


def standardised_distance(real: FeatureStatistics, fake: FeatureStatistics) -> tuple[float | None, int]:
    """Frechet distance after each feature was divided by its deviation over the real clips, and how many features.

    Features that are constant over the real clips have no such deviation and are left out; where all are (the motion
    of a model that sees none), the distance is None. ValueError for fewer than two clips on a side.
    """
    if min(real.num_samples, fake.num_samples) < 2:
        raise ValueError(
            f"a distance between sets needs 2 clips in each, got {real.num_samples} real and {fake.num_samples} "
            "generated ones: sample more, or hold out more files"
        )
    variance = real.covariance(unbiased=False).diagonal()
    kept = (variance > CONSTANT * (variance + real.mean.square())).nonzero().squeeze(1)
    if len(kept) == 0:
        return None, 0
    deviation = variance[kept].sqrt()

    def scaled(statistics: FeatureStatistics) -> FeatureStatistics:
        scatter = statistics.scatter[kept][:, kept] / torch.outer(deviation, deviation)
        return FeatureStatistics(statistics.num_samples, statistics.mean[kept] / deviation, scatter)

    return frechet_distance(scaled(real), scaled(fake)), len(kept)
