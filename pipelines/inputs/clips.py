"""Batches of clips for the training stages: random training clips, and the same held-out clips every time."""

from collections.abc import Callable, Iterator

import torch

from pipelines.data.clip_dataset import FixedClips, TrainingClips, batches, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.options.clip_loop import ClipLoopConfig
from pipelines.run.random_keys import key
from pipelines.run.ranks import connect

VALIDATION_BATCH = 16


def training_batches(
    config: Experiment, index: ClipIndex, loop: ClipLoopConfig, stage: str
) -> Callable[[int], Iterator[dict]]:
    """Batches of random training clips from a step on, keyed by the run's seed and the stage."""
    ranks = connect(config.run.device)
    clips = TrainingClips(index, config.data, "train", key(config.run.seed, stage, "clips"))
    return lambda first_step: batches(
        clips, first_step, loop.global_batch_size, ranks.process_index, ranks.num_processes, loop.num_workers
    )


def fixed_batches(config: Experiment, index: ClipIndex, count: int) -> Callable[[], Iterator[dict]]:
    """The same `count` held-out clips every time, spread evenly over the files, in small batches."""
    clips = FixedClips(index, config.data, "validation")
    chosen = torch.linspace(0, len(clips) - 1, min(count, len(clips))).round().long().unique().tolist()

    def generate() -> Iterator[dict]:
        for start in range(0, len(chosen), VALIDATION_BATCH):
            yield collate([clips[i] for i in chosen[start : start + VALIDATION_BATCH]])

    return generate
