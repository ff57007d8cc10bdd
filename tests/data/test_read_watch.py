"""Reading in workers: a file that ends a worker, or is never read to its end, is named; headers that promise more."""

import ctypes
import os
import time
from pathlib import Path

import pytest

from pipelines.data import clip_dataset
from pipelines.data.clip_dataset import DataConfig, TrainingClips, batches
from pipelines.data.clip_index import ClipIndex, build_index
from pipelines.data.video_file import write_video
from pipelines.prepare_data import describe_index

OPTIONS = {"num_frames": 5, "resolution": 16, "probe_workers": 1, "memory_cache_gb": 0.0, "validation_fraction": 0.0}


@pytest.fixture
def config(tmp_path, make_file) -> DataConfig:
    for number in range(3):
        make_file(tmp_path / "videos" / f"{number}.avi", seed=number, num_frames=6, height=16, width=64)
    return DataConfig(root=str(tmp_path / "videos"), **OPTIONS)


def read(index: ClipIndex, config: DataConfig, num_workers: int = 1) -> dict:
    return next(batches(TrainingClips(index, config, "train", 0), 0, 6, num_workers=num_workers))


def test_workers_give_what_no_worker_gives(config) -> None:
    index = build_index(config, 0)
    assert (read(index, config)["video"] == read(index, config, num_workers=0)["video"]).all()


def test_a_file_that_is_never_read_to_its_end_is_named(config, tmp_path) -> None:
    index = build_index(config, 0)
    config = DataConfig(root=config.root, **OPTIONS, probe_seconds=0.5)
    (tmp_path / "videos" / "1.avi").unlink()
    os.mkfifo(tmp_path / "videos" / "1.avi")  # opening it waits for a writer
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"1\.avi .*0\.5 s .*restore"):
        read(index, config)
    assert time.monotonic() - started < 60


def test_a_file_that_crashes_the_decoder_is_named(config, monkeypatch) -> None:
    index, chunks = build_index(config, 0), clip_dataset.frame_chunks

    def crash(path: Path, *arguments):
        if path.name == "2.avi":
            ctypes.string_at(0)
        yield from chunks(path, *arguments)

    monkeypatch.setattr(clip_dataset, "frame_chunks", crash)
    with pytest.raises(ValueError, match=r"2\.avi .*restore"):
        read(index, config)


def test_files_that_end_before_their_header_says_are_told(tmp_path, make_video) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "whole.avi", make_video(30), 25, "mpeg4")
    content = bytearray((tmp_path / "videos" / "whole.avi").read_bytes())
    (tmp_path / "videos" / "cut.avi").write_bytes(content[: len(content) * 7 // 8])
    for place in (48, 140):  # the two counts of frames in the header
        content[place : place + 4] = (10**9).to_bytes(4, "little")
    (tmp_path / "videos" / "liar.avi").write_bytes(content)
    index = build_index(DataConfig(root=str(tmp_path / "videos"), **OPTIONS), 0)
    ((name, what),) = index.cut
    assert name == "cut.avi" and what.endswith(" of 30 frames")
    assert dict(index.rejected)["liar.avi"].startswith("oversized: its header says 64x48 x 1000000000 frames")
    assert "1 files end before their header says" in describe_index(index) and what in describe_index(index)
    index.save(tmp_path / "index.json")
    assert ClipIndex.load(tmp_path / "index.json").cut == index.cut


def test_a_missing_ffmpeg_is_named(tmp_path, make_video, monkeypatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="FFmpeg .*none.*imageio-ffmpeg"):
        write_video(tmp_path / "a.mp4", make_video(3), 25)
