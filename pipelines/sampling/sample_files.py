"""What stands in the folder of a set of samples: a file per video and format, written whole; a grid of some of them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.data.video_file import read_video, write_gif, write_video
from pipelines.experiment import Experiment
from pipelines.pictures import label_rows, tile

FORMATS = ("mp4", "lossless")
GRID_COLUMNS, GRID_ROWS = 8, 16


def write_sample(folder: Path, entry: dict, video_uint8: Tensor, config: Experiment) -> None:
    """Write one video (t, h, w, 3) in every format of sample.save, each file whole or not at all."""
    for kind in config.sample.save:
        path = sample_file(folder, entry, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{path.name}")
        if kind == "mp4":
            write_video(part, video_uint8, config.sample.fps)
        else:
            save_file({"video": video_uint8.contiguous()}, part)
        os.replace(part, path)


def sample_file(folder: Path, entry: dict, kind: str) -> Path:
    """Where one video stands: `mp4` or `lossless` (uint8 (t, h, w, 3) in safetensors)."""
    suffix = ".mp4" if kind == "mp4" else ".safetensors"
    return folder / kind / f"{entry['name']}{suffix}"


def is_complete(folder: Path, entry: dict, kinds: Sequence[str]) -> bool:
    """Whether a video is there in all the formats asked for."""
    return all(sample_file(folder, entry, kind).exists() for kind in kinds)


def read_samples(folder: Path) -> tuple[list[dict], Tensor]:
    """samples.json and the videos (n, t, h, w, 3) uint8, exact; ValueError when they were saved as mp4 only."""
    plan = json.loads((folder / "samples.json").read_text())
    files = [sample_file(folder, entry, "lossless") for entry in plan]
    for file in files:
        if not file.exists():
            raise ValueError(
                f"{file} is missing: scores need lossless samples, run sample.py with sample.save=[mp4,lossless]"
            )
    return plan, torch.stack([load_file(file)["video"] for file in files])


def write_grid(folder: Path, plan: Sequence[dict], config: Experiment) -> None:
    """grid.mp4 and grid.gif: a row of videos per class, named."""
    rows: dict[str, list[Tensor]] = {}
    for entry in plan:
        row = rows.get(entry["class"] or "", [])
        if len(row) < GRID_COLUMNS and (row or len(rows) < GRID_ROWS):
            if "lossless" in config.sample.save:
                row.append(load_file(sample_file(folder, entry, "lossless"))["video"])
            else:
                row.append(read_video(sample_file(folder, entry, "mp4")))
            rows[entry["class"] or ""] = row
    first = next(iter(rows.values()))[0]
    grid = label_rows(tile(list(rows.values())), list(rows), first.shape[1])
    write_video(folder / "grid.mp4", grid, config.sample.fps)
    write_gif(folder / "grid.gif", grid, config.sample.fps)
