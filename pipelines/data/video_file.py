"""Video files <-> uint8 tensors <-> float videos: the only place where pixels change between bytes and floats."""

import os
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from pipelines.data.frame_reader import read_frames

# Arguments after the input: MPEG-4 is what UCF-101 uses; H.264 in 4:2:0 plays in every browser and needs even sizes.
_CODECS = {
    "mpeg4": ["-c:v", "mpeg4", "-q:v", "2", "-pix_fmt", "yuv420p"],
    "h264": [
        *("-c:v", "libx264", "-crf", "14", "-preset", "medium", "-pix_fmt", "yuv420p", "-movflags", "+faststart"),
        *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"),
    ],
    "gif": ["-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=bayer:bayer_scale=3", "-loop", "0"],
}
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
        video_uint8: (t, h, w, 3); for h264 an odd height or width is padded by one black line.
        fps: frames per second.
        codec: "h264" (for browsers) or "mpeg4" (as in UCF-101, quality 2).

    Raises:
        ValueError: wrong shape, unknown codec or container, or FFmpeg refused.
    """
    if codec not in ("h264", "mpeg4"):
        raise ValueError(f"{path}: got codec {codec!r}, expected 'h264' or 'mpeg4'")
    _encode(Path(path), video_uint8, fps, _CODECS[codec])


def write_gif(path: Path | str, video_uint8: Tensor, fps: float) -> None:
    """Writes (t, h, w, 3) uint8 RGB as an endlessly looping GIF with one palette for all frames, atomically."""
    _encode(Path(path), video_uint8, fps, _CODECS["gif"])


def to_float(video_uint8: Tensor) -> Tensor:
    """uint8 (b, t, h, w, c) or (t, h, w, c) in 0..255 -> float32 (b, c, t, h, w) or (c, t, h, w) in [-1, 1]."""
    return rearrange(video_uint8, "... t h w c -> ... c t h w").float() / 127.5 - 1


def to_uint8(video: Tensor) -> Tensor:
    """Inverse of `to_float`: float (b, c, t, h, w) or (c, t, h, w) -> uint8 (b, t, h, w, c), rounded and clamped."""
    levels = ((video.float() + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "... c t h w -> ... t h w c").to(torch.uint8).contiguous()


def _encode(path: Path, video_uint8: Tensor, fps: float, arguments: list[str]) -> None:
    import imageio_ffmpeg

    if video_uint8.ndim != 4 or video_uint8.shape[-1] != 3 or video_uint8.dtype != torch.uint8 or not len(video_uint8):
        raise ValueError(
            f"{path}: got {video_uint8.dtype} {tuple(video_uint8.shape)}, expected torch.uint8 (frames, h, w, 3)"
        )
    if path.suffix.lower() not in _CONTAINERS:
        raise ValueError(f"{path}: cannot write {path.suffix!r} files, expected one of {sorted(_CONTAINERS)}")
    _, height, width, _ = video_uint8.shape
    rate = str(Fraction(fps).limit_denominator(1001))
    part = path.absolute().with_name(f".{path.name}.{os.getpid()}.part")
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-nostdin", "-v", "error", "-threads", "1"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "pipe:0"),
        *(*arguments, "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),  # no version, no date
        *("-f", _CONTAINERS[path.suffix.lower()], str(part)),
    ]
    try:
        done = subprocess.run(command, input=video_uint8.cpu().contiguous().numpy().tobytes(), capture_output=True)
        if done.returncode != 0:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(f"FFmpeg could not write {path}: {reason[-1] if reason else done.returncode}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
