"""The real clips that are damaged, and how their files are drawn apart into a reference and a damaged side."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import torch
from torch import Tensor

from pipelines.data.clip_dataset import crop, resize_short_side
from pipelines.data.video_file import read_video

NUM_FRAMES, SIZE, LAST_FRAME = 17, 64, 600
PEOPLE, CLASSES = 8, ("Bend", "JumpingJack", "WaveOneHand", "WaveTwoHands")
Clips = list[tuple[Path, Tensor]]  # (file, (t, h, w, 3) uint8)


def count_frames(path: Path) -> int:
    """Frames of a file: what its header says, or by decoding where that says nothing."""
    with av.open(str(path)) as container:
        return container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))


def read_clips(files: Sequence[Path], per_file: int) -> Clips:
    """`per_file` clips per file, spread over its first 600 frames."""
    found = []
    for file in files:
        last_start = min(count_frames(file), LAST_FRAME) - NUM_FRAMES
        starts = {int(last_start * (i + 0.5) / per_file) for i in range(per_file)} if last_start >= 0 else set()
        for start in sorted(starts):
            frames = resize_short_side(read_video(file, range(start, start + NUM_FRAMES)), SIZE)
            found.append((file, crop(frames, SIZE, 0.5, 0.5).clone()))
    return found


def files_of(folder: Path) -> list[Path]:
    """Every file of the folder, in order."""
    return sorted(path for path in folder.rglob("*.*") if path.is_file())


def person(file: Path) -> int:
    """g01 .. g08 of v_Class_g01_c01.avi as 0 .. 7."""
    return int(file.stem.split("_g")[1][:2]) - 1


def splits(files: Sequence[Path], count: int) -> Iterator[Tensor]:
    """For each of `count` splits, which clips are real: (n,) bool. files: that of every clip.

    Whole files apart, people of actions64 and other files each drawn in halves; every split also with its sides
    swapped, for the halves differ in content, and what this does to small damage has opposite signs in the two.
    """
    others = sorted({file for file in files if "actions64" not in file.parts})
    for seed in range(count // 2):
        generator = random.Random(seed)
        people, chosen = generator.sample(range(PEOPLE), PEOPLE // 2), generator.sample(others, len(others) // 2)
        is_real = torch.tensor(
            [person(file) in people if "actions64" in file.parts else file in chosen for file in files]
        )
        yield is_real
        yield ~is_real
