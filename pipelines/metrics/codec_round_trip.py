"""What a published protocol does to frames before it scores them: JPEG or H.264 and back, resize and crop."""

import io
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

CODECS = ("jpeg75", "h264")
RESIZES = ("lanczos-then-crop", "crop-then-lanczos")
JPEG_QUALITY = 75  # Pillow's default: the reference scripts pass q=95, which Pillow ignores
H264_CRF = 5  # what imageio makes of quality=9, with which Latte writes its samples


def codec_round_trip(video_uint8: Tensor, codecs: tuple[str, ...]) -> Tensor:
    """video_uint8: (n, t, h, w, 3) uint8 -> the same shape after each codec in turn; h and w even for h264."""
    for codec in codecs:
        if codec not in CODECS:
            raise ValueError(f"a codec is one of {', '.join(CODECS)}, got {codec!r}; change the protocol's codecs.")
        round_trip = _jpeg if codec == "jpeg75" else _h264
        video_uint8 = torch.stack([round_trip(clip) for clip in video_uint8])
    return video_uint8


def _jpeg(clip_uint8: Tensor) -> Tensor:
    """clip_uint8: (t, h, w, 3) uint8 -> the same shape, each frame through a JPEG of quality 75, chroma 4:2:0."""
    from PIL import Image

    frames = []
    for frame in clip_uint8.numpy():
        with io.BytesIO() as buffer:
            Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY)
            with Image.open(buffer) as image:
                frames.append(np.asarray(image.convert("RGB")))
    return torch.from_numpy(np.stack(frames))


def _h264(clip_uint8: Tensor) -> Tensor:
    """clip_uint8: (t, h, w, 3) uint8, h and w even -> the same shape after an H.264 file, 4:2:0."""
    import imageio_ffmpeg

    num_frames, height, width, _ = clip_uint8.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 in 4:2:0 needs an even height and width, got {height} x {width}; crop by one pixel.")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.mp4")
        source = [*raw, "-s", f"{width}x{height}", "-r", "8", "-i", "-"]
        encoder = [*ffmpeg, *source, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(H264_CRF), path]
        subprocess.run(encoder, input=clip_uint8.contiguous().numpy().tobytes(), check=True, capture_output=True)
        decoded = subprocess.run([*ffmpeg, "-i", path, *raw, "-"], check=True, capture_output=True).stdout
    frames = np.frombuffer(decoded, dtype=np.uint8).copy()
    return rearrange(torch.from_numpy(frames), "(t h w c) -> t h w c", t=num_frames, h=height, w=width)


def resize_and_crop(clip_uint8: Tensor, resolution: int, resize: str) -> Tensor:
    """clip_uint8: (t, h, w, 3) uint8 of a file -> (t, resolution, resolution, 3), the centre square.

    `resize` is one of RESIZES: StyleGAN-V's or Latte's.
    """
    if resize not in RESIZES:
        raise ValueError(f"a resize is one of {', '.join(RESIZES)}, got {resize!r}; change the protocol's resize.")
    if resize == "crop-then-lanczos":
        return _lanczos(_centre_square(clip_uint8, min(clip_uint8.shape[1:3])), (resolution, resolution))
    short_side = min(clip_uint8.shape[1:3])
    height, width = (round(size * resolution / short_side) for size in clip_uint8.shape[1:3])
    return _centre_square(_lanczos(clip_uint8, (height, width)), resolution)


def _centre_square(clip_uint8: Tensor, size: int) -> Tensor:
    top, left = ((length - size) // 2 for length in clip_uint8.shape[1:3])
    return clip_uint8[:, top : top + size, left : left + size]


def _lanczos(clip_uint8: Tensor, size: tuple[int, int]) -> Tensor:
    from PIL import Image

    height, width = size
    frames = [Image.fromarray(frame) for frame in clip_uint8.contiguous().numpy()]
    resized = [np.asarray(frame.resize((width, height), Image.Resampling.LANCZOS)) for frame in frames]
    return torch.from_numpy(np.stack(resized))
