"""The proxy metrics of an evaluation: samples against held-out real clips, in features that need no downloads."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.proxy_frechet import ProxyFeatures, clip_features, proxy_records
from pipelines.metrics.proxy_temporal import TemporalFeatures
from pipelines.parts.evaluate.context import Evaluation
from pipelines.parts.evaluate.features import FeatureFiles
from pipelines.parts.evaluate.generation import REAL_FEATURES
from pipelines.run.hashes import digest
from pipelines.run.ranks import connect

BATCH, PIXELS_OF_BATCH = 16, 16 * 64 * 64  # clips at once, fewer of larger ones


def score_proxies(evaluation: Evaluation) -> dict[str, Any]:
    """{proxy_...: distance, proxy_..._record: what defines it}.

    evaluate.proxy_clips bounds the clips on either side, of samples and of held-out files; 0 = no proxy metrics.
    """
    options, samples = evaluation.config.evaluate, evaluation.samples
    if not options.proxy_clips:
        return {}
    num_frames = min(samples.num_frames, evaluation.config.data.num_frames)
    held_out = evaluation.many_held_out(options.proxy_clips).cut(num_frames)
    fake = samples.clips.thinned(options.proxy_clips).cut(num_frames)
    sources: list[ProxyFeatures] = [TemporalFeatures()]
    facts = [num_frames, evaluation.config.data.resolution, [source.record() for source in sources]]
    real_content = digest("held out", len(held_out), evaluation.index.fingerprint, evaluation.config.data.frame_stride)
    folder = Path(evaluation.config.run.root) / REAL_FEATURES / f"proxy-{digest(facts, real_content)[:16]}"
    real_rows = rows_of(folder, held_out, sources, "held-out clips")
    folder = evaluation.folder / "features" / f"proxy-{digest(facts, samples.content, len(fake))[:16]}"
    records = proxy_records(sources, real_rows, rows_of(folder, fake, sources, "samples"))
    scores = named_records(records, [num_frames, evaluation.config.data.resolution, real_content])
    about = evaluation.facts() | {"num_frames": num_frames}
    return {name: {**value, **about} if name.endswith("_record") else value for name, value in scores.items()}


def rows_of(folder: Path, clips: ClipSet, sources: list[ProxyFeatures], name: str) -> Tensor:
    """(n, d) features of clips, shared by all processes and kept in a folder."""
    files, ranks = FeatureFiles(folder, len(clips)), connect()
    extract, size = partial(clip_features, sources=sources), batch_size(clips[0].shape[1])
    files.fill(clips, extract, size, f"evaluate: proxies, {name}", ranks.process_index, ranks.num_processes)
    return files.load()


def batch_size(side: int) -> int:
    """Clips of `side` x `side` pixels that go through the networks at once."""
    return max(1, min(BATCH, PIXELS_OF_BATCH // side**2))


def named_records(records: dict[str, dict[str, Any]], facts: list[Any]) -> dict[str, Any]:
    """The scores by name, and their records; equal ids mean equal features, real clips and numbers of clips."""
    scores: dict[str, Any] = {}
    for name, record in records.items():
        depends = {key: value for key, value in record.items() if key not in ("name", "value")}
        identity = f"{name}-n{record['num_fake']}-{digest(depends, facts)[:8]}"
        scores |= {name: record["value"], f"{name}_record": {"id": identity, **record}}
    return scores
