"""Frames are as players show them: turned, mirrored, and not those of a cover. FFmpeg's own output decides."""

import io
import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipelines.data.data_config import DataConfig
from pipelines.data.frame_reader import choose_reader, read_frames
from pipelines.data.probe import probe_files

WIDTH, HEIGHT = 96, 64
FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
ONE = 0x10000
# xx, yx, xy, yy of the display matrix: four turns, and their mirror images
MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MATRICES += [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.mp4"
    source = ["-f", "lavfi", "-i", f"testsrc2=s={WIDTH}x{HEIGHT}:r=25", "-frames:v", "20"]
    subprocess.run([*FFMPEG, *source, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def with_matrix(base: Path, target: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A copy whose track header holds another display matrix, moved so that the picture stays in sight."""
    content = bytearray(base.read_bytes())
    place = content.find(b"tkhd")
    start = place + 8 + (20 if content[place + 4] == 0 else 32) + 16
    xx, yx, xy, yy = matrix
    shift = [WIDTH * (xx < 0) + HEIGHT * (xy < 0), WIDTH * (yx < 0) + HEIGHT * (yy < 0)]
    numbers = [xx * ONE, yx * ONE, 0, xy * ONE, yy * ONE, 0, shift[0] * ONE, shift[1] * ONE, 0x40000000]
    content[start : start + 36] = struct.pack(">9i", *numbers)
    target.write_bytes(content)
    return target


def shown(path: Path) -> np.ndarray:
    """The first frame by FFmpeg's own program."""
    command = [*FFMPEG, "-i", str(path), "-frames:v", "1", "-f", "image2", "-c:v", "png", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"))


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix(base: Path, matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    """As found by itself, and as prepare_data finds the reader."""
    path = with_matrix(base, tmp_path / "turned.mp4", matrix)
    expected = shown(path)
    answer = probe_files(tmp_path, ["turned.mp4"], DataConfig(probe_workers=1))["turned.mp4"]
    assert (answer["height"], answer["width"]) == expected.shape[:2]
    for reader in ("", "av", choose_reader(path), str(answer["reader"])):
        frame = read_frames(path, [0], reader)[0].astype(int)
        assert np.abs(frame - expected).max() <= 2, reader


def test_a_cover_is_not_the_video(base: Path, tmp_path: Path) -> None:
    cover, both = tmp_path / "cover.jpg", tmp_path / "tagged.mp4"
    subprocess.run([*FFMPEG, "-f", "lavfi", "-i", "testsrc2=s=200x200", "-frames:v", "1", str(cover)], check=True)
    streams = ["-i", str(cover), "-i", str(base), "-map", "0:v", "-map", "1:v", "-c", "copy"]
    subprocess.run([*FFMPEG, *streams, "-disposition:v:0", "attached_pic", str(both)], check=True)
    answer = probe_files(tmp_path, ["tagged.mp4"], DataConfig(probe_workers=1))["tagged.mp4"]
    assert (answer["num_frames"], answer["height"], answer["width"]) == (20, HEIGHT, WIDTH)
    for reader in ("", str(answer["reader"])):
        assert np.array_equal(read_frames(both, [0, 7], reader), read_frames(base, [0, 7], "av"))
