"""Class accuracy of an evaluation's samples, beside that of real clips; in constant memory."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pipelines.data.video_file import to_float, to_uint8
from pipelines.inputs.cache import fixed_clips, open_cache
from pipelines.inputs.models import autoencoder_path
from pipelines.metrics import class_accuracy
from pipelines.metrics.clip_set import ClipSet, evenly_spaced
from pipelines.parts.evaluate.context import Evaluation, uncached
from vae.registry import load_autoencoder

BATCH = 16


def score_classes(evaluation: Evaluation) -> dict[str, Any]:
    """Class accuracy of the samples, of real held-out clips, of first frames alone; {} without classes.

    The classifiers learn from real training clips as they are and, for a run's own samples, also decoded from the
    latent cache, which samples went through too (without these they lean on traces of coding, and fail on clips that
    have none). The same on held-out clips is what a perfect generator would reach.
    """
    options, index, samples = evaluation.config.evaluate, evaluation.index, evaluation.samples.clips
    if not index.classes or not options.classifier_seeds or -1 in samples.labels:
        return {}
    held_out = evaluation.held_out.thinned(options.classifier_clips)
    training, labels = training_clips(evaluation)
    shown = {"class_accuracy": small(samples), "class_accuracy_real": small(held_out)}
    truth = {"class_accuracy": samples.labels, "class_accuracy_real": held_out.labels}
    if evaluation.is_own:
        shown["class_accuracy_real_decoded"] = decoded_clips(evaluation, held_out)
        truth["class_accuracy_real_decoded"] = held_out.labels
    still = class_accuracy.repeat_first_frame
    accuracies: dict[str, list[float]] = {name: [] for name in (*shown, "class_accuracy_first_frame")}
    for seed in range(options.classifier_seeds):
        fit = (len(index.classes), seed, options.classifier_steps, evaluation.device)
        judge = class_accuracy.fit(training, labels, *fit)
        for name, clips in shown.items():
            accuracies[name].append(class_accuracy.accuracy(judge, clips, truth[name]))
        still_judge = class_accuracy.fit(still(training), labels, *fit)
        still_real = still(shown["class_accuracy_real"])
        accuracies["class_accuracy_first_frame"].append(
            class_accuracy.accuracy(still_judge, still_real, held_out.labels)
        )
    means = {name: fmean(values) for name, values in accuracies.items()}
    return means | {f"{name}_per_seed": values for name, values in accuracies.items()}


def small(clips: ClipSet) -> Tensor:
    """Clips as the classifier sees them: (n, t, 32, 32, 3) uint8."""
    return torch.cat([shrink_frames(batch) for batch, _ in clips.batches(BATCH)])


def shrink_frames(video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n, t, 32, 32, 3) uint8, averaged over areas."""
    frames = rearrange(video_uint8, "n t h w c -> (n t) c h w").float()
    size = (class_accuracy.INPUT_SIZE, class_accuracy.INPUT_SIZE)
    frames_uint8 = F.interpolate(frames, size=size, mode="area").round().to(torch.uint8)
    return rearrange(frames_uint8, "(n t) c h w -> n t h w c", n=len(video_uint8))


@torch.no_grad()
def training_clips(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    """Small training clips and their labels: as they are, and for a run's own samples also decoded from the cache."""
    config, index, device = evaluation.config, evaluation.index, evaluation.device
    if not evaluation.is_own:
        chosen_clips = evaluation.training.thinned(config.evaluate.classifier_clips)
        return small(chosen_clips), chosen_clips.labels
    cache, clips = open_cache(config, index), fixed_clips(replace(config, data=uncached(config.data)), index, "train")
    vae = load_autoencoder(autoencoder_path(config)).to(device)
    positions = cache.split("train")
    chosen = evenly_spaced(len(positions), config.evaluate.classifier_clips)
    labels = cache.labels[[positions[i] for i in chosen]]
    videos = [small(ClipSet(labels.tolist(), lambda i: to_uint8(clips[chosen[i]]["video"])))]
    for start in range(0, len(chosen), BATCH):
        latents = cache.latents([positions[i] for i in chosen[start : start + BATCH]], whiten=False)
        videos.append(shrink_frames(to_uint8(vae.decode({part: z.to(device) for part, z in latents.items()}).cpu())))
    return torch.cat(videos), labels.repeat(2)


@torch.no_grad()
def decoded_clips(evaluation: Evaluation, clips: ClipSet) -> Tensor:
    """Encode and decode clips with the autoencoder of the cache -> (n, t, 32, 32, 3) uint8."""
    vae = load_autoencoder(autoencoder_path(evaluation.config)).to(evaluation.device)
    decoded = (vae.reconstruct(to_float(batch).to(evaluation.device)).cpu() for batch, _ in clips.batches(BATCH))
    return torch.cat([shrink_frames(to_uint8(video)) for video in decoded])
