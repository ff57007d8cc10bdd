"""What stands in the folder of a set of samples: a file per video and format, written whole; a grid of some of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipelines.data.pictures import label_rows, tile
from pipelines.data.video_file import write_gif, write_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.samples import read_sample, sample_file

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


def is_complete(folder: Path, entry: dict, kinds: Sequence[str]) -> bool:
    """Whether a video is there in all the formats asked for."""
    return all(sample_file(folder, entry, kind).exists() for kind in kinds)


def write_grid(folder: Path, plan: Sequence[dict], config: Experiment) -> None:
    """grid.mp4 and grid.gif: a row of videos per class, named."""
    rows: dict[str, list[Tensor]] = {}
    for entry in plan:
        row = rows.get(entry["class"] or "", [])
        if len(row) < GRID_COLUMNS and (row or len(rows) < GRID_ROWS):
            row.append(read_sample(folder, entry))
            rows[entry["class"] or ""] = row
    first = next(iter(rows.values()))[0]
    grid = label_rows(tile(list(rows.values())), list(rows), first.shape[1])
    write_video(folder / "grid.mp4", grid, config.sample.fps)
    write_gif(folder / "grid.gif", grid, config.sample.fps)
