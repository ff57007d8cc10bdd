"""From I3D features of real clips and of sets of samples to the record of a Frechet video distance."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from pipelines.metrics.codec_round_trip import codec_round_trip
from pipelines.metrics.declared import IF_MEASURED, ITS_RECORD, LOWER, Metric, declare
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.fvd_protocols import FvdProtocol, deviations, score_id
from pipelines.metrics.i3d_weights import FeatureExtractor, weights_word
from pipelines.metrics.kernel_distance import kernel_distance

CHUNK = 256  # features whose statistics are merged one after the other

declare(
    Metric(
        "fvd16",
        "Fréchet video distance over 16 frames on I3D features. Lower is better.",
        LOWER,
        ITS_RECORD,
        summary=IF_MEASURED,
    )
)
declare(
    Metric(
        "proxy_fvd16",
        "PROXY: the Fréchet video distance over 16 frames on the I3D network with fixed random weights that see change "
        "only, because its weights file is absent. It compares runs of this project only and is no FVD.",
        LOWER,
        ITS_RECORD,
        summary=IF_MEASURED,
    )
)


def clip_features(
    clips_uint8: Tensor, extractor: FeatureExtractor, protocol: FvdProtocol, codecs: tuple[str, ...]
) -> Tensor:
    """Features of the first frames of clips: (n, t, h, w, 3) uint8 -> (n, 400) fp32.

    codecs: what the clips go through first. Raises ValueError for clips shorter than the protocol's.
    """
    if clips_uint8.shape[1] < protocol.num_frames:
        raise ValueError(
            f"{protocol.name} scores {protocol.num_frames} frames, but the clips have {clips_uint8.shape[1]}: make "
            "longer clips"
        )
    return extractor.features(codec_round_trip(clips_uint8[:, : protocol.num_frames], codecs))


def stream_statistics(features: Tensor) -> FeatureStatistics:
    """features: (n, d) -> their statistics, gathered chunk by chunk in fp64."""
    chunks = features.split(CHUNK)
    statistics = FeatureStatistics.of(chunks[0])
    for chunk in chunks[1:]:
        statistics = statistics.merge(FeatureStatistics.of(chunk))
    return statistics


def fvd_record(
    real: Tensor,
    fake_sets: Sequence[Tensor],
    extractor: FeatureExtractor,
    protocol: FvdProtocol,
    floor: tuple[Tensor, Tensor] | None = None,
    codec: str = "",
    missed_prior: bool = False,
) -> dict[str, Any]:
    """The distance of every set of samples to the real clips, JSON-ready, with all that defines it.

    real, fake_sets[i]: (n, 400) features, equally many; floor: features of two disjoint sets of real clips. codec,
    missed_prior: see `deviations`. The result: id (numbers of equal ids may be compared), name ("fvd16", or
    "proxy_fvd16" without I3D weights), value (mean over sets), std (over sets, None for one), values, complete (nothing
    deviates from the protocol), floor, kernel_distance, the protocol, weights and counts.
    """
    counts = {len(features) for features in (real, *fake_sets)}
    assert len(counts) == 1, "every set has as many clips as the real one"
    num_videos, num_sets = counts.pop(), len(fake_sets)
    words = deviations(protocol, num_videos, num_sets, codec, missed_prior, extractor.precision, extractor.weights_file)
    real_statistics = stream_statistics(real)
    values = [
        frechet_distance(real_statistics, stream_statistics(fake), protocol.unbiased_covariance) for fake in fake_sets
    ]
    return {
        "id": score_id(protocol, words, weights_word(extractor.weights_file, extractor.weights_hash)),
        "name": ("proxy_fvd" if extractor.is_proxy else "fvd") + str(protocol.num_frames),
        "value": fmean(values),
        "std": stdev(values) if num_sets > 1 else None,
        "values": values,
        "complete": not words and not extractor.is_proxy,
        "deviations": words,
        "floor": None if floor is None else floor_record(*floor, protocol),
        "kernel_distance": over_sets([kernel_distance(real, fake) for fake in fake_sets]),
        "protocol": asdict(protocol),
        "weights_file": extractor.weights_file,
        "weights_hash": extractor.weights_hash,
        "precision": extractor.precision,
        "num_videos": num_videos,
        "num_real": num_videos,
        "num_fake": num_videos,
        "num_sets": num_sets,
    }


def floor_record(first: Tensor, second: Tensor, protocol: FvdProtocol) -> dict[str, Any]:
    """What the same distance is between two disjoint sets of real clips, (n, 400) each: no samples can be nearer."""
    statistics = stream_statistics(first), stream_statistics(second)
    return {"value": frechet_distance(*statistics, protocol.unbiased_covariance), "num_videos": len(first)}


def over_sets(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread over sets (None for one) and single values."""
    return {"value": fmean(values), "std": stdev(values) if len(values) > 1 else None, "values": list(values)}
