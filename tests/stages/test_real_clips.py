"""The real clips of our own protocol are the very clips that a generator is trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.clip_dataset import FixedClips
from pipelines.data.clip_index import build_index
from pipelines.data.data_config import DataConfig
from pipelines.data.video_file import to_uint8, write_video
from pipelines.metrics.fvd_protocols import PROTOCOLS
from pipelines.parts.evaluate.real_clips import RealFiles

FRAMES = 9


@pytest.mark.parametrize(("height", "width"), [(24, 41), (41, 24), (31, 20), (16, 16), (48, 64)])
def test_resized_and_cut_as_for_training(height: int, width: int, tmp_path: Path) -> None:
    """Odd and even rests of a crop, both ways up."""
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (FRAMES, height, width, 3), dtype=np.uint8))
    write_video(tmp_path / "a.avi", noise, 25, "lossless")
    data = DataConfig(root=str(tmp_path), resolution=16, num_frames=FRAMES, validation_fraction=0.0, probe_workers=1)
    index = build_index(data, 0)
    protocol = replace(PROTOCOLS["fvd16-strict"], name="short", num_frames=FRAMES)
    (real,) = RealFiles(protocol, index.root, index.split("train"), 16, 1, 0).clips([0]).stacked()
    trained = to_uint8(FixedClips(index, data, "train")[0]["video"].unsqueeze(0))[0]
    assert torch.equal(real, trained)
