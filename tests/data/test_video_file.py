"""Bytes <-> tensors: exact inverses, the two readers agree, the writer is deterministic."""

import numpy as np
import pytest
import torch

from pipelines.data import frame_reader
from pipelines.data.video_file import VideoWriter, read_video, to_float, to_uint8, write_gif, write_video

needs_decord = pytest.mark.skipif(frame_reader.decord is None, reason="decord is not installed")


def test_uint8_float_uint8_is_exact_for_every_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8, 1).expand(2, 4, 8, 8, 3)
    video = to_float(levels)
    assert video.shape == (2, 3, 4, 8, 8) and video.dtype == torch.float32
    assert video.min() == -1 and video.max() == 1
    assert torch.equal(to_uint8(video), levels)
    assert torch.equal(to_uint8(video[0]), levels[0]) and torch.equal(to_float(levels[0]), video[0])


def test_to_uint8_rounds_and_clamps() -> None:
    video = torch.tensor([-7.0, -1.0, 0.4 / 127.5 - 1, 1.6 / 127.5 - 1, 2.0]).reshape(1, 1, 1, 5)
    assert to_uint8(video).flatten().tolist() == [0, 0, 0, 2, 255]


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mp4", "h264"), ("-a b.mkv", "h264")])
def test_written_video_reads_back(tmp_path, make_video, name: str, codec: str) -> None:
    video_uint8 = make_video()
    write_video(tmp_path / name, video_uint8, 25, codec)
    read = read_video(tmp_path / name)
    assert read.shape == video_uint8.shape and read.dtype == torch.uint8
    assert (read.int() - video_uint8.int()).abs().float().mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no temporary file is left


def test_writer_gives_the_same_bytes(tmp_path, make_video) -> None:
    for suffix, codec in ((".avi", "mpeg4"), (".mp4", "h264")):
        files = [tmp_path / f"{i}{suffix}" for i in range(2)]
        for file in files:
            write_video(file, make_video(), 25, codec)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_odd_size_is_padded_for_h264(tmp_path, make_video) -> None:
    write_video(tmp_path / "a.mp4", make_video(height=47, width=63), 25)
    assert read_video(tmp_path / "a.mp4").shape[1:] == (48, 64, 3)


def test_gif_has_every_frame(tmp_path, make_video) -> None:
    from PIL import Image

    write_gif(tmp_path / "a.gif", make_video(num_frames=6), 10)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 6 and picture.size == (64, 48) and picture.info["loop"] == 0


@pytest.mark.parametrize(
    ("name", "video", "codec"),
    [
        ("a.avi", torch.zeros(2, 8, 8, 3), "mpeg4"),
        ("a.avi", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "mpeg4"),
        ("a.avi", torch.zeros(0, 8, 8, 3, dtype=torch.uint8), "mpeg4"),
        ("a.xyz", torch.zeros(2, 8, 8, 3, dtype=torch.uint8), "mpeg4"),
        ("a.avi", torch.zeros(2, 8, 8, 3, dtype=torch.uint8), "vp9"),
    ],
)
def test_writer_refuses_with_the_path(tmp_path, name: str, video: torch.Tensor, codec: str) -> None:
    with pytest.raises(ValueError, match=name):
        write_video(tmp_path / name, video, 25, codec)


def test_frames_come_in_the_order_asked_for(tmp_path, make_file) -> None:
    file = make_file(tmp_path / "a.avi", num_frames=20)
    whole = read_video(file)
    for reader in ("", "av", "decord"):
        assert torch.equal(read_video(file, [5, 3, 3, 19, 0], reader), whole[[5, 3, 3, 19, 0]])


@pytest.mark.parametrize("reader", ["av", "decord"])
def test_errors_name_the_file(tmp_path, make_file, reader: str) -> None:
    file = make_file(tmp_path / "clip one.avi", num_frames=5)
    for indices in ([5], [-1], []):
        with pytest.raises(ValueError, match="clip one.avi"):
            read_video(file, indices, reader)
    file.write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="clip one.avi"):
        read_video(file, [0], reader)
    with pytest.raises(ValueError, match="clip one.avi"):
        read_video(file)
    with pytest.raises(ValueError, match="absent.avi"):
        read_video(tmp_path / "absent.avi")


def test_long_files_come_in_pieces(tmp_path, make_file) -> None:
    file = make_file(tmp_path / "a.avi", num_frames=11)
    whole = frame_reader.read_frames(file)
    for reader in ("av", "decord"):
        pieces = list(frame_reader.frame_chunks(file, range(1, 11), reader, chunk=4))
        assert [len(piece) for piece in pieces] == [4, 4, 2]
        assert np.array_equal(np.concatenate(pieces), whole[1:])


@needs_decord
def test_readers_agree_on_real_files(real_clips) -> None:
    files = sorted((real_clips / "ucf101").rglob("*.avi"))[:4] + sorted((real_clips / "actions64").rglob("*.avi"))[:4]
    assert files
    for file in files:
        last = frame_reader.count_frames(file, "av") - 1
        indices = [last - 1, 0, last // 2, 7, last // 3]
        ours, theirs = (frame_reader.read_frames(file, indices, reader).astype(int) for reader in ("av", "decord"))
        # The two FFmpeg versions round a few MPEG-4 blocks differently.
        assert np.abs(ours - theirs).max() <= 2 and np.abs(ours - theirs).mean() < 1e-3


def test_last_frame_is_right_every_time(real_clips) -> None:
    """decord itself returns memory that it never wrote for the end of this file, more often than not."""
    file = real_clips / "ucf101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi"
    last = frame_reader.count_frames(file, "av") - 1
    expected = frame_reader.read_frames(file, [0, last], "av")
    for _ in range(8):
        assert np.array_equal(frame_reader.read_frames(file, [0, last], "decord"), expected)


@needs_decord
def test_rotation_is_applied_by_both_readers(real_clips) -> None:
    shapes = {"video_0.mov": (320, 568), "video_180.mov": (320, 568), "video_270.mov": (568, 320)}
    frames = {}
    for name, shape in shapes.items():
        frames[name] = frame_reader.read_frames(real_clips / "broken" / name, None, "av")
        assert frames[name].shape[1:3] == shape
        assert np.array_equal(frames[name], frame_reader.read_frames(real_clips / "broken" / name, None, "decord"))


def test_ten_bit_and_grey_come_out_right(real_clips) -> None:
    assert frame_reader.choose_reader(real_clips / "broken" / "h264_10bits.mp4") == "av"
    grey = read_video(real_clips / "broken" / "v_Fencing_g04_c04_grayscale.mp4").int()
    assert (grey[..., 0] - grey[..., 1]).abs().max() <= 3


def test_pyav_reads_where_decord_is_absent(tmp_path, make_file, monkeypatch) -> None:
    file = make_file(tmp_path / "a.avi")
    expected = read_video(file)
    monkeypatch.setattr(frame_reader, "decord", None)
    assert frame_reader.choose_reader(file) == "av"
    for reader in ("", "decord"):  # an index made elsewhere may name decord
        assert torch.equal(read_video(file, None, reader), expected)


@pytest.mark.parametrize("codec", ["h264", "h264-crf10", "mpeg4", "mp4v"])
def test_pieces_give_the_bytes_of_the_whole(tmp_path, make_video, codec: str) -> None:
    video = make_video(num_frames=11, height=34, width=46)
    write_video(tmp_path / "whole.mp4", video, 25, codec)
    with VideoWriter(tmp_path / "pieces.mp4", 25, codec) as writer:
        for piece in video.split(4):
            writer.write(piece)
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pieces.mp4", "whole.mp4"]


def test_an_interrupted_writer_leaves_nothing(tmp_path, make_video) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(make_video())
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="at least one"), VideoWriter(tmp_path / "b.mp4", 25):
        pass
    with pytest.raises(ValueError, match=r"\(frames, 48, 64, 3\)"), VideoWriter(tmp_path / "c.mp4", 25) as writer:
        writer.write(make_video())
        writer.write(make_video(height=32))
    assert list(tmp_path.iterdir()) == []


def test_mp4v_spends_one_and_a_half_bits_per_pixel(tmp_path) -> None:
    """A constant rate, as OpenCV's writer sets it, that faint noise fills."""
    noise = torch.randint(100, 156, (50, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "noise.mp4", noise, 25, "mp4v")
    bits_per_pixel = (tmp_path / "noise.mp4").stat().st_size * 8 / (50 * 128 * 128)
    assert 1.2 < bits_per_pixel < 2.4
