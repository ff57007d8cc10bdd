"""FID of single frames and inception score of an evaluation, where torchvision's Inception v3 is in weights.folder."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.metrics.frechet import frechet_distance
from pipelines.metrics.fvd import over_sets, stream_statistics
from pipelines.metrics.fvd_protocols import find_protocol
from pipelines.metrics.inception import frame_features, load_inception, split_frames
from pipelines.metrics.inception_score import inception_score
from pipelines.metrics.weight_files import content_hash, find_weights
from pipelines.parts.evaluate.context import Evaluation
from pipelines.parts.evaluate.features import FeatureFiles
from pipelines.parts.evaluate.generation import REAL_FEATURES, Choice, choose_clips
from pipelines.run.hashes import digest
from pipelines.run.ranks import connect


def score_frames(evaluation: Evaluation) -> dict[str, Any]:
    """fid_torchvision and inception_score_torchvision over the clips of the FVD; {} where the weights are absent.

    Clips are as they are, whatever codecs the protocol of the FVD has.
    """
    options = evaluation.config.evaluate
    weights = find_weights(evaluation.config.weights.folder, "inception")
    if not options.frames_per_video or weights is None:
        return {}
    ranks = connect()
    network = load_inception(weights).to(evaluation.device)
    choice = choose_clips(evaluation, find_protocol(options.protocol))
    num_frames = choice.protocol.num_frames
    extract = partial(frame_features, network=network, num_frames=options.frames_per_video)
    facts = [weights.name, options.frames_per_video, num_frames]
    samples = evaluation.samples
    sides = {
        "real clips": (
            Path(evaluation.config.run.root) / REAL_FEATURES / digest(choice.real.content(choice.chosen), facts)[:16],
            choice.real.clips(choice.chosen),
        )
    }
    for number, positions in enumerate(choice.sets, start=1):
        name = digest(samples.content, positions, facts)[:16]
        clips = samples.clips.subset(positions).cut(num_frames)
        sides[f"samples, set {number} of {len(choice.sets)}"] = (evaluation.folder / "features" / name, clips)
    features = []
    for name, (folder, clips) in sides.items():
        files = FeatureFiles(folder, len(clips))
        files.fill(clips, extract, 4, f"evaluate: frames of {name}", ranks.process_index, ranks.num_processes)
        features.append(split_frames(files.load()))
    real = stream_statistics(features[0][0])
    distances = [frechet_distance(real, stream_statistics(fake)) for fake, _ in features[1:]]
    scores = [inception_score(logits) for _, logits in features[1:]]
    found = {"fid_torchvision": distances, "inception_score_torchvision": scores}
    return records(evaluation, choice, found, weights)


def records(evaluation: Evaluation, choice: Choice, values: dict[str, list[float]], weights: Path) -> dict[str, Any]:
    """{name: mean over sets, name_record: with all that defines it}."""
    scores: dict[str, Any] = {}
    frames, codec = evaluation.config.evaluate.frames_per_video, evaluation.samples.codec
    words = [f"f{frames}", f"n{choice.num_videos}", f"sets{len(choice.sets)}", *(["lossy"] if codec else [])]
    for name, found in values.items():
        record = {
            "id": "-".join([name.replace("_", "-"), choice.protocol.name, *words]),
            "name": name,
            **over_sets(found),
            "num_videos": choice.num_videos,
            "frames_per_video": frames,
            "weights_file": weights.name,
            "weights_hash": content_hash(weights),
            "resize": "299 x 299, bilinear, antialiased",
        }
        record = choice.facts(evaluation) | record
        scores |= {name: fmean(found), f"{name}_record": record}
    return scores
