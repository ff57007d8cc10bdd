"""Judges that see what class accuracy does not: a network that tells samples from real clips, and the drawn scene."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from pipelines.data.video_file import to_float, to_uint8
from pipelines.inputs.models import autoencoder_path
from pipelines.metrics.blockiness import border_ratio
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.scene_fidelity import accepted
from pipelines.metrics.two_sample import PATCH, two_sample_accuracy
from pipelines.parts.evaluate.context import Evaluation
from pipelines.parts.evaluate.scene_reader import read_scenes
from pipelines.run.hashes import digest, hash_folder
from vae.registry import load_autoencoder

BATCH = 16


@dataclass(frozen=True)
class Sides:
    """Equally many clips of each: samples, and two sets of held-out clips of different files, (n, t, h, w, 3) uint8."""

    samples: Tensor
    held_out: tuple[Tensor, Tensor]  # decoded by the autoencoder that the samples went through, where it is known
    source: Tensor  # the first of them before that
    facts: dict[str, Any]


def score_judges(evaluation: Evaluation) -> dict[str, Any]:
    """Two-sample accuracy, blockiness of decoded clips and, of the embedded shapes, fidelity; {} with too few clips."""
    sides = choose_sides(evaluation)
    if sides is None:
        return {}
    scores: dict[str, Any] = {}
    if evaluation.is_own:
        ratios = border_ratio(ClipSet.of(sides.held_out[0])), border_ratio(ClipSet.of(sides.source))
        scores["blockiness_decoded"] = ratios[0] / ratios[1] if ratios[0] and ratios[1] else None
    if evaluation.config.evaluate.two_sample_seeds and min(sides.samples.shape[2:4]) >= PATCH:
        scores |= tell_apart(evaluation, sides)
    data = evaluation.config.data
    if not data.root and data.shapes.look == "plain":
        scores |= read_fidelity(sides)
    return scores


def choose_sides(evaluation: Evaluation) -> Sides | None:
    """What is compared; None where that leaves fewer than four clips on a side, or nothing is asked for."""
    wanted, samples = evaluation.config.evaluate.judged_videos, evaluation.samples.clips
    held_out = evaluation.held_out
    count = min(wanted, len(samples), len(held_out) // 2)
    if count < 4 or len(samples[0]) < len(held_out[0]):
        return None
    real = held_out.thinned(2 * count)
    source = real.cut(len(held_out[0])).stacked()
    facts: dict[str, Any] = {"num_videos": count, "decoded": False, "autoencoder": None}
    decoded = source
    if evaluation.is_own:
        path = autoencoder_path(evaluation.config)
        facts |= {"decoded": True, "autoencoder": hash_folder(path)}
        decoded = decode_again(evaluation, source)
    shown = samples.thinned(count).cut(len(held_out[0])).stacked()
    # files are sorted by class: every second one is a set of its own
    return Sides(shown, (decoded[::2], decoded[1::2]), source[::2], facts | evaluation.facts())


@torch.no_grad()
def decode_again(evaluation: Evaluation, video_uint8: Tensor) -> Tensor:
    """Encode and decode (n, t, h, w, 3) uint8 with the autoencoder of the cache."""
    vae, device = load_autoencoder(autoencoder_path(evaluation.config)).to(evaluation.device), evaluation.device
    batches = video_uint8.split(BATCH)
    return torch.cat([to_uint8(vae.reconstruct(to_float(batch).to(device)).cpu()) for batch in batches])


def tell_apart(evaluation: Evaluation, sides: Sides) -> dict[str, Any]:
    """Two-sample accuracy of the samples, and of two sets of held-out clips; mean over seeds."""
    options, (first, second) = evaluation.config.evaluate, sides.held_out
    found: dict[str, list[float]] = {"two_sample_accuracy": [], "two_sample_accuracy_real": []}
    for seed in range(options.two_sample_seeds):
        fit = (seed, options.two_sample_steps, evaluation.device)
        found["two_sample_accuracy"].append(two_sample_accuracy(sides.samples, first, *fit))
        found["two_sample_accuracy_real"].append(two_sample_accuracy(second, first, *fit))
    kind = "decoded" if sides.facts["decoded"] else "files"
    words = f"n{sides.facts['num_videos']}-steps{options.two_sample_steps}x{options.two_sample_seeds}-{kind}"
    scores: dict[str, Any] = {}
    for name, values in found.items():
        record = {"id": f"{name.replace('_', '-')}-{words}", "per_seed": values, **sides.facts}
        scores |= {name: fmean(values), f"{name}_record": record}
    return scores


def read_fidelity(sides: Sides) -> dict[str, Any]:
    """How near the clips of both sides are to drawn scenes."""
    psnr, real = read_scenes(sides.samples).psnr, read_scenes(torch.cat(sides.held_out)).psnr
    share, level = accepted(psnr, real)
    own = digest(sides.facts["autoencoder"])[:8] if sides.facts["decoded"] else "files"
    record = {"accepted_from_db": level, **sides.facts}
    values = {"accepted": share, "fidelity": float(psnr.mean()), "fidelity_real": float(real.mean())}
    scores: dict[str, Any] = {}
    for name, value in values.items():
        words = f"plain-n{sides.facts['num_videos']}" + ("" if name == "fidelity" else f"-{own}")
        scores |= {name: value, f"{name}_record": {"id": f"{name.replace('_', '-')}-{words}", **record}}
    return scores
