"""One picture of what autoencoders trained with other objectives give back of the same held-out clips."""

from collections.abc import Mapping
from pathlib import Path

import torch
from einops import repeat
from torch import Tensor

from pipelines.data.clip_dataset import FixedClips
from pipelines.data.pictures import label_columns, tile, write_png
from pipelines.data.video_file import to_uint8
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.metrics.clip_set import evenly_spaced
from pipelines.studies.ablation.options import AblationStudy
from pipelines.train_vae import STAGE
from vae.registry import load_autoencoder

NUM_CLIPS, FRAME, ENLARGED = 6, 12, 2


@torch.no_grad()
def write_picture(config: AblationStudy, rows: Mapping[str, str], path: Path) -> None:
    """A column per trained row of the ablation {row: its name there}, seed 0, beside the original; frame 12 of some
    clips."""
    clips = FixedClips(open_index(config), config.data, "validation")
    videos = [clips[i]["video"] for i in evenly_spaced(len(clips), NUM_CLIPS)]
    columns = [[to_uint8(video) for video in videos]]
    runs = {row: Path(config.run.root) / config.run.name / f"{row}-seed0" for row in rows}
    trained = {row: run for row, run in runs.items() if (run / STAGE / "last").is_dir()}
    for run in trained.values():
        model = load_autoencoder(resolve_model("", run, STAGE, which="last"))
        decoded = [model.decode_components(video.unsqueeze(0))["reconstruction"][0] for video in videos]
        columns.append([to_uint8(video) for video in decoded])
    grid = tile([[_enlarged(column[i]) for column in columns] for i in range(len(videos))])
    width = ENLARGED * config.data.resolution
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, label_columns(grid, ["original", *(rows[row] for row in trained)], width)[0])


def _enlarged(video_uint8: Tensor) -> Tensor:
    """One frame, every pixel a square: (t, h, w, 3) -> (1, 2 h, 2 w, 3)."""
    return repeat(video_uint8[FRAME : FRAME + 1], "t h w c -> t (h i) (w j) c", i=ENLARGED, j=ENLARGED)
