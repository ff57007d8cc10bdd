"""The Frechet video distance of an evaluation: which clips, their features on all processes, and the record."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.inputs.scoring_networks import open_extractor
from pipelines.metrics.fvd import clip_features, fvd_record, over_sets
from pipelines.metrics.fvd_protocols import (
    FvdProtocol,
    codecs_left,
    draw_sets,
    find_protocol,
    floor_halves,
    select_real_clips,
)
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.inception_score import inception_score
from pipelines.metrics.precision_recall import precision_recall
from pipelines.parts.evaluate.context import Evaluation
from pipelines.parts.evaluate.features import FeatureFiles
from pipelines.parts.evaluate.real_clips import RealFiles, network_facts
from pipelines.run.hashes import digest
from pipelines.run.ranks import connect

REAL_FEATURES = ".real_features"  # below run.root: shared by all runs on the same clips


@dataclass(frozen=True)
class Choice:
    """Which clips are compared: positions among the real files, and among the samples."""

    protocol: FvdProtocol
    real: RealFiles
    chosen: list[int]  # real files
    floor: tuple[list[int], list[int]]  # two disjoint draws of real files; empty where the protocol wants none
    sets: list[list[int]]  # of samples
    prior: str  # how the classes of a set came about
    missed_prior: bool  # the protocol wants the classes of the real split, but there are too few samples of one

    @property
    def num_videos(self) -> int:
        return len(self.chosen)

    def facts(self, evaluation: Evaluation) -> dict[str, Any]:
        """What a record says of the clips."""
        return evaluation.facts() | {
            "split": self.protocol.real_split,
            "stride": {"real": self.protocol.real_frame_stride or evaluation.config.data.frame_stride, "fake": 1},
            "class_prior": self.prior,
        }


def choose_clips(evaluation: Evaluation, protocol: FvdProtocol) -> Choice:
    """The same on every process. ValueError where there are too few clips on either side."""
    config, seed = evaluation.config, evaluation.config.run.seed
    real = RealFiles.of(config, evaluation.index, protocol)
    available, labels = len(real.entries), evaluation.samples.clips.labels.tolist()
    num_sets = config.evaluate.num_sets or protocol.num_sets
    num_videos = videos_wanted(config.evaluate.num_videos, protocol, available, len(labels) // num_sets)
    if num_videos < 2:
        raise ValueError(
            f"{len(labels)} generated videos in {num_sets} set(s), against {available} real files, leave {num_videos} "
            "for a set, but a distance needs 2: sample more, or set evaluate.num_sets=1"
        )
    chosen = select_real_clips(protocol, available, num_videos, seed)
    counts = real.class_counts() if protocol.class_prior == "empirical" and -1 not in labels else None
    sets, as_reality = draw_sets(labels, num_videos, num_sets, seed, counts)
    floor: tuple[list[int], list[int]] = ([], [])
    if protocol.floor and available >= 4:
        floor = floor_halves(available, num_videos, seed)
    prior = "unknown: the samples have no labels" if -1 in labels else "as given"
    if counts:
        prior = "as in the real split" if as_reality else "as given: too few samples of some class"
    return Choice(protocol, real, chosen, floor, sets, prior, bool(counts) and not as_reality)


def score_frechet(evaluation: Evaluation) -> dict[str, Any]:
    """FVD and kernel distance under the configured protocol, or their proxies: {name: value, name_record: record}."""
    config, samples = evaluation.config, evaluation.samples
    protocol = find_protocol(config.evaluate.protocol)
    extractor = open_extractor(config, protocol.weights_file)
    choice = choose_clips(evaluation, protocol)
    reals = list(dict.fromkeys([*choice.chosen, *choice.floor[0], *choice.floor[1]]))
    features = real_features(Path(config.run.root) / REAL_FEATURES, choice.real, reals, extractor)
    row_of = {position: row for row, position in enumerate(reals)}
    real, *floor = (features[[row_of[p] for p in positions]] for positions in (choice.chosen, *choice.floor))
    fakes = [
        sample_features(evaluation, extractor, protocol, positions, f"set {number} of {len(choice.sets)}")
        for number, positions in enumerate(choice.sets, start=1)
    ]
    pair = (floor[0], floor[1]) if choice.floor[0] else None
    record = fvd_record(real, fakes, extractor, protocol, pair, samples.codec, choice.missed_prior)
    record |= choice.facts(evaluation) | {
        "resize": protocol.resize,
        "codec": {
            "samples": samples.codec or "lossless",
            "then_real": protocol.real_codecs,
            "then_fake": codecs_left(protocol.fake_codecs, samples.codec),
        },
    }
    return named_scores(record, real, fakes, extractor)


def named_scores(
    record: dict[str, Any], real: Tensor, fakes: Sequence[Tensor], extractor: FeatureExtractor
) -> dict[str, Any]:
    """The scores that the same features give, by name: the record first, then what stands beside it."""
    name = str(record["name"])
    scores = {name: record["value"], f"{name}_record": record}
    if not extractor.is_proxy:  # classes of Kinetics-400: not the inception score on C3D that papers print
        scores["kernel_distance_i3d"] = record["kernel_distance"]["value"]
        record["inception_score_i3d"] = over_sets([inception_score(logits) for logits in fakes])
        scores["inception_score_i3d"] = record["inception_score_i3d"]["value"]
        pairs = [precision_recall(real, fake) for fake in fakes]
        for side, values in zip(("precision", "recall"), zip(*pairs, strict=True), strict=True):
            record[side] = over_sets(list(values))
            scores[f"{side}_i3d"] = record[side]["value"]
    return scores


def videos_wanted(option: int, protocol: FvdProtocol, num_real: int, num_fake: int) -> int:
    """What evaluate.num_videos means: 0 = what the protocol asks for, -1 = that or all there are on either side."""
    return min(protocol.num_clips, num_real, num_fake) if option < 0 else option or protocol.num_clips


def real_features(folder: Path, real: RealFiles, positions: Sequence[int], extractor: FeatureExtractor) -> Tensor:
    """(n, 400) features of real clips, computed once for all runs that score against the same clips."""
    content = digest(real.content(positions), network_facts(extractor), real.protocol.real_codecs)
    files = FeatureFiles(folder / content[:16], len(positions))
    extract = partial(clip_features, extractor=extractor, protocol=real.protocol, codecs=real.protocol.real_codecs)
    ranks = connect()
    files.fill(
        real.clips(positions),
        extract,
        extractor.batch_size,
        "evaluate: real clips",
        ranks.process_index,
        ranks.num_processes,
    )
    return files.load()


def sample_features(
    evaluation: Evaluation, extractor: FeatureExtractor, protocol: FvdProtocol, positions: Sequence[int], name: str
) -> Tensor:
    """(n, 400) features of one set of samples, kept in the folder of the scores."""
    samples, codecs = evaluation.samples, codecs_left(protocol.fake_codecs, evaluation.samples.codec)
    content = digest(samples.content, list(positions), protocol.num_frames, codecs, network_facts(extractor))
    files = FeatureFiles(evaluation.folder / "features" / content[:16], len(positions))
    extract = partial(clip_features, extractor=extractor, protocol=protocol, codecs=codecs)
    ranks = connect()
    files.fill(
        samples.clips.subset(positions),
        extract,
        extractor.batch_size,
        f"evaluate: samples, {name}",
        ranks.process_index,
        ranks.num_processes,
    )
    return files.load()
