"""What a published protocol does to frames before it scores them: JPEG or H.264 and back, resize and crop."""

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

CODECS = ("jpeg75", "h264")
RESIZES = ("antialiased", "lanczos-then-crop", "crop-then-lanczos")
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
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.mp4")
        writer = imageio_ffmpeg.write_frames(
            path, (width, height), fps=8, codec="libx264", macro_block_size=1, output_params=["-crf", str(H264_CRF)]
        )
        writer.send(None)
        for frame in clip_uint8.contiguous().numpy():
            writer.send(frame.tobytes())
        writer.close()
        reader = imageio_ffmpeg.read_frames(path)
        next(reader)  # the first item is the file's description
        frames = [np.frombuffer(frame, dtype=np.uint8).reshape(height, width, 3) for frame in reader]
    assert len(frames) == num_frames
    return torch.from_numpy(np.stack(frames))


def resize_and_crop(clip_uint8: Tensor, resolution: int, resize: str) -> Tensor:
    """clip_uint8: (t, h, w, 3) uint8 of a file -> (t, resolution, resolution, 3), the centre square.

    `resize` is one of RESIZES: ours (bicubic, antialiased, on the short side, then crop), StyleGAN-V's or Latte's.
    """
    if resize not in RESIZES:
        raise ValueError(f"a resize is one of {', '.join(RESIZES)}, got {resize!r}; change the protocol's resize.")
    if resize == "crop-then-lanczos":
        return _lanczos(_centre_square(clip_uint8, min(clip_uint8.shape[1:3])), (resolution, resolution))
    short_side = min(clip_uint8.shape[1:3])
    height, width = (round(size * resolution / short_side) for size in clip_uint8.shape[1:3])
    if resize == "lanczos-then-crop":
        return _centre_square(_lanczos(clip_uint8, (height, width)), resolution)
    frames = rearrange(clip_uint8, "t h w c -> t c h w").float()
    frames = F.interpolate(frames, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    frames_uint8 = frames.round().clamp(0, 255).to(torch.uint8)
    return _centre_square(rearrange(frames_uint8, "t c h w -> t h w c"), resolution)


def _centre_square(clip_uint8: Tensor, size: int) -> Tensor:
    top, left = ((length - size) // 2 for length in clip_uint8.shape[1:3])
    return clip_uint8[:, top : top + size, left : left + size]


def _lanczos(clip_uint8: Tensor, size: tuple[int, int]) -> Tensor:
    from PIL import Image

    height, width = size
    frames = [Image.fromarray(frame) for frame in clip_uint8.contiguous().numpy()]
    resized = [np.asarray(frame.resize((width, height), Image.Resampling.LANCZOS)) for frame in frames]
    return torch.from_numpy(np.stack(resized))
