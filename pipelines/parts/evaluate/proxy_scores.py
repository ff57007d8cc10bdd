"""The proxy metrics of an evaluation: samples against held-out real clips, in features that need no downloads.

The reference are held-out clips because the networks behind the features have learned from the training clips.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.proxy_flow import FlowFeatures
from pipelines.metrics.proxy_frechet import ProxyFeatures, clip_features, proxy_records
from pipelines.metrics.proxy_latents import LatentFeatures, latent_deviations
from pipelines.metrics.proxy_temporal import TemporalFeatures
from pipelines.parts.evaluate.autoencoders import OwnAutoencoder, open_autoencoder
from pipelines.parts.evaluate.context import Evaluation
from pipelines.parts.evaluate.features import FeatureFiles
from pipelines.parts.evaluate.generation import REAL_FEATURES
from pipelines.run.hashes import digest, hash_folder
from pipelines.run.ranks import connect
from vae.scale_space_flow import warp

BATCH, PIXELS_OF_BATCH = 16, 16 * 64 * 64  # clips at once, fewer of larger ones
RANKING_PART = "residual"  # the latents whose distance ranks damage rightly: docs/results/metric_sanity.md
WHITENING_CLIPS = 64  # held-out clips that say how large latents are


def score_proxies(evaluation: Evaluation) -> dict[str, Any]:
    """{proxy_...: distance, proxy_..._record: what defines it}; those in latents and flow need an autoencoder of ours.

    evaluate.proxy_clips bounds the clips on either side, of samples and of held-out files; 0 = no proxy metrics.
    """
    options, samples = evaluation.config.evaluate, evaluation.samples
    if not options.proxy_clips:
        return {}
    num_frames = min(samples.num_frames, evaluation.config.data.num_frames)
    held_out = evaluation.many_held_out(options.proxy_clips).cut(num_frames)
    fake = samples.clips.thinned(options.proxy_clips).cut(num_frames)
    sources = open_sources(evaluation, held_out, num_frames)
    facts = [num_frames, evaluation.config.data.resolution, [source.record() for source in sources]]
    real_content = digest("held out", len(held_out), evaluation.index.fingerprint, evaluation.config.data.frame_stride)
    folder = Path(evaluation.config.run.root) / REAL_FEATURES / f"proxy-{digest(facts, real_content)[:16]}"
    real_rows = rows_of(folder, held_out, sources, "held-out clips")
    folder = evaluation.folder / "features" / f"proxy-{digest(facts, samples.content, len(fake))[:16]}"
    records = proxy_records(sources, real_rows, rows_of(folder, fake, sources, "samples"))
    scores = named_records(records, [num_frames, evaluation.config.data.resolution, real_content])
    about = evaluation.facts() | {"num_frames": num_frames}
    return {name: {**value, **about} if name.endswith("_record") else value for name, value in scores.items()}


def open_sources(evaluation: Evaluation, held_out: ClipSet, num_frames: int) -> list[ProxyFeatures]:
    """What the run's models and the length of the clips allow."""
    sources: list[ProxyFeatures] = [TemporalFeatures()]
    if evaluation.vae_path is None:
        return sources
    opened, identity = open_autoencoder(evaluation.vae_path, evaluation.device), hash_folder(evaluation.vae_path)
    if not isinstance(opened, OwnAutoencoder):
        return sources
    vae, side = opened.network, evaluation.config.data.resolution

    def encode(video: Tensor) -> dict[str, Tensor]:
        return vae.encode(video).latents

    shapes = vae.latent_shapes(tuple(vae.pad_clip(torch.empty(1, 3, num_frames, side, side, device="meta")).shape[2:]))
    if RANKING_PART in shapes:
        few = (video for video, _ in held_out.thinned(WHITENING_CLIPS).batches(batch_size(side)))
        deviations = latent_deviations(encode, few, [RANKING_PART], evaluation.device)
        sources.append(LatentFeatures(encode, deviations, identity, evaluation.device))
    sources += [FlowFeatures(module, warp, identity, evaluation.device) for module in vae.motion_modules()]
    return sources


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
