"""Video files <-> uint8 tensors <-> float videos: the only place where pixels change between bytes and floats."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from einops import rearrange
from torch import Tensor

from pipelines.data.frame_reader import read_frames


def _h264(crf: int, preset: str = "medium") -> list[str]:
    quality = ["-crf", str(crf), "-preset", preset, "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    return ["-c:v", "libx264", *quality, *_EVEN_SIZE]


# Arguments after the input: MPEG-4 is what UCF-101 uses; H.264 in 4:2:0 plays in every browser and needs even sizes.
_EVEN_SIZE = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
_CODECS = {
    "h264": _h264(14),
    "h264-crf10": _h264(10),
    "h264-fast": _h264(18, "veryfast"),
    "lossless": ["-c:v", "ffv1", "-pix_fmt", "bgr0"],  # RGB as it is
    "mpeg4": ["-c:v", "mpeg4", "-q:v", "2", "-pix_fmt", "yuv420p"],
    # What OpenCV's writer asks of FFmpeg for "mp4v": 1.5 bits per pixel (a constant rate), a keyframe every 12 frames.
    "mp4v": ["-c:v", "mpeg4", "-tag:v", "mp4v", "-g", "12", "-pix_fmt", "yuv420p", *_EVEN_SIZE],
    "gif": ["-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=bayer:bayer_scale=3", "-loop", "0"],
}
_MP4V_BITS_PER_PIXEL = 1.5
VIDEO_CODECS = tuple(name for name in _CODECS if name != "gif")
_CONTAINERS = {".avi": "avi", ".mp4": "mp4", ".gif": "gif", ".mkv": "matroska", ".mov": "mov"}


def read_video(path: Path | str, frame_indices: Sequence[int] | None = None, reader: str = "") -> Tensor:
    """Reads frames of a file.

    Args:
        path: video file of any container and codec that FFmpeg reads.
        frame_indices: frame numbers from 0, in any order; None = all.
        reader: "decord", "av" or "" (decord where it gives PyAV's bytes, else PyAV).

    Returns:
        video_uint8: (t, h, w, 3) RGB.

    Raises:
        ValueError: the file cannot be read or has fewer frames than asked for.
    """
    return torch.from_numpy(read_frames(Path(path), frame_indices, reader))


def write_video(path: Path | str, video_uint8: Tensor, fps: float, codec: str = "h264") -> None:
    """Writes (t, h, w, 3) uint8 RGB to a file, atomically; the same input gives the same bytes.

    Args:
        path: file ending in .mp4, .avi, .mkv or .mov; its folder must exist.
        video_uint8: (t, h, w, 3).
        fps: frames per second.
        codec: one of VIDEO_CODECS, see `VideoWriter`.

    Raises:
        ValueError: wrong shape, unknown codec or container, or FFmpeg refused.
    """
    if codec not in VIDEO_CODECS:
        raise ValueError(f"{path}: got codec {codec!r}, expected one of {', '.join(VIDEO_CODECS)}")
    with VideoWriter(path, fps, codec) as writer:
        writer.write(video_uint8)


def write_gif(path: Path | str, video_uint8: Tensor, fps: float) -> None:
    """Writes (t, h, w, 3) uint8 RGB as an endlessly looping GIF with one palette for all frames, atomically."""
    with VideoWriter(path, fps, "gif") as writer:
        writer.write(video_uint8)


def to_float(video_uint8: Tensor) -> Tensor:
    """uint8 (b, t, h, w, c) or (t, h, w, c) in 0..255 -> float32 (b, c, t, h, w) or (c, t, h, w) in [-1, 1]."""
    return rearrange(video_uint8, "... t h w c -> ... c t h w").float() / 127.5 - 1


def to_uint8(video: Tensor) -> Tensor:
    """Inverse of `to_float`: float (b, c, t, h, w) or (c, t, h, w) -> uint8 (b, t, h, w, c), rounded and clamped."""
    levels = (video.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return rearrange(levels, "... c t h w -> ... t h w c").contiguous()


def ffmpeg() -> str:
    """The FFmpeg program; ValueError where there is none."""
    import imageio_ffmpeg

    try:
        program = str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        program = ""
    if shutil.which(program) is None:
        raise ValueError(
            f"there is no FFmpeg program{f' {program}' if program else ''} to write videos with: python -m pip install "
            "imageio-ffmpeg brings one, or let the variable IMAGEIO_FFMPEG_EXE name yours"
        )
    return program


class VideoWriter:
    """Writes a video piece by piece: `with VideoWriter(path, fps) as writer: writer.write(frames)`.

    The file appears, whole, when the block ends without an error. Memory holds one piece at a time (a GIF's palette
    needs all frames: FFmpeg keeps them). The same frames give the same bytes, however they are cut into pieces.

    Args:
        path: file ending in .mp4, .avi, .mkv, .mov or .gif; its folder must exist.
        fps: frames per second.
        codec: "h264" (crf 14, for browsers), "h264-fast" (for large pictures that are looked at once), "h264-crf10",
            "mpeg4" (as in UCF-101, quality 2), "mp4v" (as OpenCV writes it), "lossless" (FFV1, for .avi and .mkv) or
            "gif". An odd height or width is padded by one black line, but not for "mpeg4", "lossless" and "gif".

    Raises:
        ValueError: wrong shape, unknown container, no frames, or FFmpeg refused.
    """

    def __init__(self, path: Path | str, fps: float, codec: str = "h264") -> None:
        self.path, self.codec = Path(path), codec
        self.part = self.path.absolute().with_name(f".{self.path.name}.{os.getpid()}.part")
        self.fps = Fraction(fps).limit_denominator(1001)
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes]
        self._shape: tuple[int, ...] = ()
        if self.path.suffix.lower() not in _CONTAINERS:
            raise ValueError(f"{path}: cannot write {self.path.suffix!r} files, expected one of {sorted(_CONTAINERS)}")

    def write(self, video_uint8: Tensor) -> None:
        """Appends frames (t, h, w, 3) uint8 RGB, t >= 1; all pieces have one height and width."""
        frame_shape = tuple(video_uint8.shape[1:]) if video_uint8.ndim == 4 and len(video_uint8) else ()
        expected = self._shape or frame_shape
        if video_uint8.dtype != torch.uint8 or frame_shape[2:] != (3,) or frame_shape != expected:
            size = f"{expected[0]}, {expected[1]}" if self._shape else "h, w"
            raise ValueError(
                f"{self.path}: got {video_uint8.dtype} {tuple(video_uint8.shape)}, "
                f"expected torch.uint8 (frames, {size}, 3)"
            )
        if self._process is None:
            self._shape = frame_shape
            self._process = self._start(*frame_shape[:2])
        try:
            self._process.stdin.write(video_uint8.cpu().contiguous().numpy().data)
        except BrokenPipeError:
            self._fail()

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        arguments = list(_CODECS[self.codec])
        if self.codec == "mp4v":
            arguments += ["-b:v", str(min(int(_MP4V_BITS_PER_PIXEL * self.fps * height * width), 2**31 - 1))]
        command = [
            *(ffmpeg(), "-y", "-nostdin", "-v", "error", "-threads", "1"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self.fps), "-i", "pipe:0"),
            *(*arguments, "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),  # no version, no date
            *("-f", _CONTAINERS[self.path.suffix.lower()], str(self.part)),
        ]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
            start_new_session=True,  # Ctrl-C is for us to act on
        )

    def _fail(self) -> None:
        code = self._process.wait()
        self._messages.seek(0)
        reason = self._messages.read().decode(errors="replace").strip().splitlines()
        raise ValueError(f"FFmpeg could not write {self.path}: {reason[-1] if reason else code}")

    def __enter__(self) -> "VideoWriter":
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._process is not None:
                self._process.kill()  # nothing but an error leaves it running
                self._process.wait()
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()
            self._messages.close()
            self.part.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._process is None:
            raise ValueError(f"{self.path}: got no frames, expected at least one")
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._fail()
        if self._process.wait() != 0:
            self._fail()
        os.replace(self.part, self.path)
