"""Judges that see what class accuracy does not: a network that tells samples from real clips, and the drawn scene."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from pipelines.data.video_file import to_float, to_uint8
from pipelines.inputs.precision import autocast
from pipelines.metrics.blockiness import border_ratio
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.fvd import over_sets
from pipelines.metrics.scene_fidelity import accepted
from pipelines.metrics.two_sample import FOLDS, PATCH, accuracy_in_fold
from pipelines.parts.evaluate.context import Evaluation
from pipelines.parts.evaluate.scene_reader import CLIPS_AT_ONCE, Readings, join, read_scenes
from pipelines.run.hashes import hash_folder
from pipelines.run.ranks import shared
from vae.registry import load_autoencoder

BATCH = 16


@dataclass(frozen=True)
class Sides:
    """Equally many clips of each: samples, and two sets of held-out clips of different files, (n, t, h, w, 3) uint8."""

    samples: Tensor
    held_out: tuple[Tensor, Tensor]  # decoded by the autoencoder that the samples went through, where it is known
    source: Tensor  # the first of them before that
    labels: tuple[Tensor, Tensor]  # classes of the samples, and of the first of the held-out sets; -1 = none
    facts: dict[str, Any]


def score_judges(evaluation: Evaluation) -> dict[str, Any]:
    """Two-sample accuracy, blockiness of decoded clips and, of the embedded shapes, what is read from them.

    {} with too few clips. The processes share the work.
    """
    sides = choose_sides(evaluation)
    if sides is None:
        return {}
    scores: dict[str, Any] = {}
    if evaluation.is_own:
        ratios = border_ratio(ClipSet.of(sides.held_out[0])), border_ratio(ClipSet.of(sides.source))
        scores["blockiness_decoded"] = ratios[0] / ratios[1] if ratios[0] and ratios[1] else None
        scores["blockiness_decoded_record"] = {"id": f"blockiness-decoded-{words_of(sides.facts)}", **sides.facts}
    if evaluation.config.evaluate.two_sample_seeds and min(sides.samples.shape[2:4]) >= PATCH:
        scores |= tell_apart(evaluation, sides)
    data = evaluation.config.data
    if not data.root and data.shapes.look == "plain" and data.frame_stride == 1:  # rates are known per frame of files
        scores |= read_shapes(sides, evaluation.index.classes)
    return scores


def choose_sides(evaluation: Evaluation) -> Sides | None:
    """What is compared; None where that leaves fewer than four clips on a side, or nothing is asked for."""
    wanted, samples = evaluation.config.evaluate.judged_videos, evaluation.samples.clips
    held_out = evaluation.held_out
    count = min(wanted, len(samples), len(held_out) // 2)
    if count < 4 or samples[0].shape[1:] != held_out[0].shape[1:]:
        return None
    num_frames = min(len(samples[0]), len(held_out[0]))
    chosen, compared = samples.thinned(count), held_out.thinned(2 * count)
    source = compared.stacked()
    facts: dict[str, Any] = {"num_videos": count, "num_frames": num_frames, "decoded": False, "autoencoder": None}
    decoded = source
    if evaluation.is_own and evaluation.vae_path:
        facts |= {"decoded": True, "autoencoder": hash_folder(evaluation.vae_path)}
        decoded = decode_again(evaluation, evaluation.vae_path, source)
    shown = chosen.cut(num_frames).stacked()
    source, decoded = source[:, :num_frames], decoded[:, :num_frames]
    # files are sorted by class: every second one is a set of its own
    labels = chosen.labels, compared.labels[::2]
    return Sides(shown, (decoded[::2], decoded[1::2]), source[::2], labels, facts | evaluation.facts())


def decode_again(evaluation: Evaluation, vae_path: Path, video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 as the cache encodes and sample.py decodes: in their precision, of the mean or a draw."""
    config, device = evaluation.config, evaluation.device
    vae, draws = load_autoencoder(vae_path).to(device), config.latte.sample_posterior

    @torch.no_grad()
    def decoded(start: int) -> Tensor:
        batch = to_float(video_uint8[start : start + BATCH]).to(device)
        generators = [torch.Generator().manual_seed(start + row) for row in range(len(batch))] if draws else None
        with autocast(device, config.cache.precision):
            latents = vae.encode(batch, draws, generators).latents
        with autocast(device, config.sample.precision):
            shown = vae.decode(latents, (batch.shape[2], batch.shape[3], batch.shape[4]))
        return to_uint8(shown.float().cpu())

    starts = range(0, len(video_uint8), BATCH)
    return torch.cat(shared([partial(decoded, start) for start in starts], "evaluate: held-out clips, decoded"))


def tell_apart(evaluation: Evaluation, sides: Sides) -> dict[str, Any]:
    """Two-sample accuracy of the samples, and of two sets of held-out clips; mean over seeds."""
    options, (first, second) = evaluation.config.evaluate, sides.held_out
    shown = {"two_sample_accuracy": sides.samples, "two_sample_accuracy_real": second}
    jobs: list[Callable[[], float]] = [
        partial(accuracy_in_fold, clips, first, seed, fold, options.two_sample_steps, evaluation.device)
        for clips in shown.values()
        for seed in range(options.two_sample_seeds)
        for fold in range(FOLDS)
    ]
    accuracies = torch.tensor(shared(jobs, "evaluate: two-sample networks"), dtype=torch.float64)
    by_seed = accuracies.unflatten(0, (len(shown), -1, FOLDS)).mean(dim=2)
    found = {name: values.tolist() for name, values in zip(shown, by_seed, strict=True)}
    words = f"steps{options.two_sample_steps}x{options.two_sample_seeds}-{words_of(sides.facts)}"
    scores: dict[str, Any] = {}
    for name, values in found.items():
        record = {"id": f"{name.replace('_', '-')}-{words}", **over_sets(values), **sides.facts}
        scores |= {name: fmean(values), f"{name}_record": record}
    return scores


def words_of(facts: Mapping[str, Any]) -> str:
    """What an id says of both sides: how many clips of how many frames, and what the real ones went through."""
    real = facts["autoencoder"][:8] if facts["decoded"] else "files"
    return f"n{facts['num_videos']}-f{facts['num_frames']}-{real}"


def read_shapes(sides: Sides, classes: Sequence[str]) -> dict[str, Any]:
    """How near the clips of both sides are to drawn scenes, and whether these move as their class says."""
    found, *real = (read_together(clips) for clips in (sides.samples, *sides.held_out))
    real_fidelity = torch.cat([readings.fidelity for readings in real])
    share, level = accepted(found.fidelity, real_fidelity)
    record = {"accepted_from_db": level, **sides.facts}
    values = {"accepted": share, "fidelity": float(found.fidelity.mean()), "fidelity_real": float(real_fidelity.mean())}
    if -1 not in sides.labels[0]:
        of_real = "class_accuracy_real_decoded" if sides.facts["decoded"] else "class_accuracy_real"
        shown = {"class_accuracy": found, of_real: real[0]}
        for (name, readings), labels in zip(shown.items(), sides.labels, strict=True):
            right = [classes[label] == motion for label, motion in zip(labels.tolist(), readings.motions, strict=True)]
            values[name] = fmean(right)
    scores: dict[str, Any] = {}
    for name, value in values.items():
        identity = f"{name.replace('_', '-')}-plain-{words_of(sides.facts)}"
        scores |= {name: value, f"{name}_record": {"id": identity, **record}}
    return scores


def read_together(video_uint8: Tensor) -> Readings:
    """`read_scenes`, shared by the processes."""
    parts = [partial(read_scenes, part) for part in video_uint8.split(CLIPS_AT_ONCE)]
    return join(shared(parts, "evaluate: what clips show"))
