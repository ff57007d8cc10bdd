"""A look at the videos that were scored, beside their scores: for leaderboards, whoever made the videos."""

from pathlib import Path

from pipelines.data.pictures import video_row
from pipelines.inputs.scores import PREVIEW_FILE
from pipelines.metrics.clip_set import evenly_spaced
from pipelines.parts.evaluate.context import SampleSet

NUM_VIDEOS, NUM_FRAMES, FPS = 8, 32, 8


def write_preview(samples: SampleSet, folder: Path) -> None:
    """samples.webp: the first video of each of up to eight classes, or some from all over a set without classes."""
    firsts: dict[int, int] = {}
    for position, label in enumerate(samples.clips.labels.tolist()):
        firsts.setdefault(label, position)
    positions = list(firsts.values()) if len(firsts) > 1 else range(len(samples.clips))
    chosen = samples.clips.subset([positions[i] for i in evenly_spaced(len(positions), NUM_VIDEOS)])
    (folder / PREVIEW_FILE).write_bytes(
        video_row([chosen[i][:NUM_FRAMES] for i in range(len(chosen))], NUM_VIDEOS, FPS)
    )
