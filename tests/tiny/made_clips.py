"""A folder of made clips in the layout that the studies expect of study.clips (docs/results/README.md)."""

import csv
from pathlib import Path

import numpy as np
import torch

from pipelines.data.video_file import write_video

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("Bend", "JumpingJack", "WaveOneHand", "WaveTwoHands")
NUM_FRAMES, SIDE = 24, 32


def write_clips(folder: Path) -> Path:
    """Every file of configs/studies/ablation_files.csv as a few noisy frames, and the lists of actions64."""
    with (ROOT / "configs" / "studies" / "ablation_files.csv").open() as file:
        names = [line["path"] for line in csv.DictReader(file)]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = np.random.default_rng(number).integers(0, 256, (NUM_FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
        part = path.with_name("part.avi")  # readers go by the content, not by the name
        write_video(part, torch.from_numpy(frames), fps=25, codec="mpeg4")
        part.replace(path)
    actions = [name.removeprefix("actions64/") for name in names if name.startswith("actions64/")]
    lists = folder / "actions64_splits"
    lists.mkdir()
    lists.joinpath("classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES, start=1)))
    held_out = [name for name in actions if "_g07_" in name or "_g08_" in name]
    lists.joinpath("testlist01.txt").write_text("".join(f"{name}\n" for name in held_out))
    learned = [name for name in actions if name not in held_out]
    lists.joinpath("trainlist01.txt").write_text("".join(f"{name} 1\n" for name in learned))
    return folder
