"""What the scores of an evaluation are computed from: the clips of both sides, the run's models, and the options."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.data.clip_dataset import FixedClips
from pipelines.data.clip_index import ClipIndex
from pipelines.data.data_config import DataConfig
from pipelines.data.video_file import to_uint8
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.clip_set import ClipSet
from pipelines.run.folder import git_commit

MOST_PER_FILE = 8  # held-out clips of one file, for distances between distributions


@dataclass(frozen=True)
class SampleSet:
    """Generated videos that are scored."""

    clips: ClipSet  # whole videos, all of one shape, with labels of the run's index (-1 = none)
    names: tuple[str, ...]  # of every video, for messages
    content: str  # sha256 over all of them
    codec: str  # "" where they are what the generator made; else what they went through last, "h264" or "jpeg75" say
    num_frames: int
    seeds: tuple[int, ...] = ()  # that they were sampled with, where that is known


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of generated videos."""

    config: Experiment
    index: ClipIndex
    device: torch.device
    folder: Path  # of these scores
    samples: SampleSet
    vae_path: Path | None  # the run's own autoencoder; None where somebody's videos are scored and the run has none
    is_own: bool  # the samples are this run's

    def facts(self) -> dict[str, Any]:
        """What the record of a distance between the samples and held-out clips says of both."""
        seeds = self.samples.seeds
        return {
            "split": "validation",
            "stride": {"real": self.config.data.frame_stride, "fake": 1},
            "resolution": self.config.data.resolution,
            "resize": "antialiased",
            "codec": {"samples": self.samples.codec or "lossless"},
            "seeds": {"draw": self.config.run.seed, "samples": compact(seeds)},
            "data": self.index.fingerprint,
            "samples": self.samples.content,
            "code_version": git_commit(),
        }

    @property
    def held_out(self) -> ClipSet:
        """Real clips of the validation split, of data.num_frames frames."""
        return fixed_set(FixedClips(self.index, uncached(self.config.data), "validation"))

    def many_held_out(self, count: int) -> ClipSet:
        """At most `count` real clips of the validation split, up to eight of a file where the files are few."""
        num_files = len(self.index.split("validation"))
        per_file = max(1, min(MOST_PER_FILE, count // max(num_files, 1)))
        return fixed_set(FixedClips(self.index, uncached(self.config.data), "validation", per_file)).thinned(count)

    @property
    def training(self) -> ClipSet:
        """Real clips of the training split, of data.num_frames frames."""
        return fixed_set(FixedClips(self.index, uncached(self.config.data), "train"))


def uncached(data: DataConfig) -> DataConfig:
    """The same clips, but no file is kept in memory: an evaluation reads most of them once."""
    return replace(data, memory_cache_gb=0.0)


def fixed_set(clips: FixedClips) -> ClipSet:
    """Clips of the data set as uint8."""
    labels = [int(clips.describe(i)["label"]) for i in range(len(clips))]
    return ClipSet(labels, lambda position: to_uint8(clips[position]["video"]))


def compact(seeds: Sequence[int]) -> list[int] | str:
    """Seeds for a record: all of few, the ends of an unbroken row."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]}..{seeds[-1]}"
    return list(seeds)
