"""Pictures of clips and their components: uint8 videos (t, h, w, 3), side by side, labelled, moving."""

import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from pipelines.data.video_file import to_uint8

FLOW_RANGE_PIXELS = 12.0  # flow of this length gets the full colour
RESIDUAL_GAIN = 2.0  # residuals are drawn twice as strong, around grey
NUM_PREVIEW_CLIPS = 8  # clips in a picture made during training
LABEL_HEIGHT = 14
GAP = 3
BACKGROUND = 255
CELL = 128  # height of a video on a page in pixels, at most twice its own


def flow_to_rgb(motion: Tensor) -> Tensor:
    """The colour wheel: direction is hue, length is saturation. (3, t, h, w) in pixels -> (t, h, w, 3) uint8."""
    flow_x, flow_y, _ = motion.detach().float().cpu().unbind(0)
    hue = (torch.atan2(flow_y, flow_x) / (2 * torch.pi)) % 1
    saturation = (torch.hypot(flow_x, flow_y) / FLOW_RANGE_PIXELS).sqrt().clamp(max=1)
    # HSV of value 1: a colour is fully on within 1/6 of its hue, off beyond 1/3, linear between.
    primary = rearrange(torch.tensor([0, 1 / 3, 2 / 3]), "c -> c 1 1 1")  # red, green, blue
    distance = ((hue - primary + 0.5) % 1 - 0.5).abs()  # (3, t, h, w)
    off = (6 * distance - 1).clamp(0, 1)
    return rearrange(((1 - saturation * off) * 255).round().to(torch.uint8), "c t h w -> t h w c").contiguous()


def _pixels(video: Tensor) -> Tensor:
    return to_uint8(video.detach().float().cpu())


def _difference(video: Tensor) -> Tensor:
    return _pixels(video * RESIDUAL_GAIN)


DRAWINGS = {"pixels": _pixels, "flow": flow_to_rgb, "difference": _difference}  # (3, t, h, w) -> (t, h, w, 3) uint8


def component_videos(components: dict[str, Tensor], video: Tensor, rows: Mapping[str, str]) -> dict[str, Tensor]:
    """Components of one clip ((3, t, h, w) each, from `decode_components`) -> named uint8 videos in reading order.

    rows: what to show between original and reconstruction, and how, one of DRAWINGS: the model's `picture_rows`.
    """
    drawn = {name: DRAWINGS[drawing](components[f"decoded_{name}"]) for name, drawing in rows.items()}
    return {"original": _pixels(video), **drawn, "reconstruction": _pixels(components["reconstruction"])}


def scale_to(video_uint8: Tensor, height: int) -> Tensor:
    """Bicubic resize of (t, h, w, 3) uint8 to a height, width in proportion, antialiased."""
    frames = rearrange(video_uint8, "t h w c -> t c h w")
    width = round(frames.shape[3] * height / frames.shape[2])
    resized = functional.interpolate(frames, size=(height, width), mode="bicubic", antialias=True)
    return rearrange(resized, "t c h w -> t h w c").contiguous()


def video_uri(videos: list[Tensor], num_columns: int, fps: float) -> str:
    """`video_row` inside the page."""
    return data_uri("image/webp", video_row(videos, num_columns, fps))


def video_row(videos: list[Tensor], num_columns: int, fps: float) -> bytes:
    """Videos (t, h, w, 3) uint8 side by side in one WebP, so that they move in step; white where one is missing."""
    cells = [scale_to(video, min(CELL, 2 * video.shape[1])) for video in videos]
    blank = [torch.full_like(cells[0], BACKGROUND)] * (num_columns - len(cells))
    return webp(tile([cells + blank]), fps)


def data_uri(kind: str, content: bytes) -> str:
    """A picture inside the page."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def flow_wheel(size: int) -> Tensor:
    """The legend of `flow_to_rgb`: a disc of flows up to FLOW_RANGE_PIXELS, (size, size, 3) uint8."""
    axis = torch.linspace(-FLOW_RANGE_PIXELS, FLOW_RANGE_PIXELS, size)
    flow_y, flow_x = torch.meshgrid(axis, axis, indexing="ij")
    inside = rearrange(torch.hypot(flow_x, flow_y) <= FLOW_RANGE_PIXELS, "h w -> h w 1")
    wheel = flow_to_rgb(rearrange(torch.stack([flow_x, flow_y, 0 * flow_x]), "c h w -> c 1 h w"))[0]
    return torch.where(inside, wheel, BACKGROUND).to(torch.uint8)


def tile(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Videos (t, h, w, 3) of one shape -> one video with them in a grid, missing cells white."""
    num_columns = max(len(row) for row in rows)
    blank = torch.full_like(rows[0][0], BACKGROUND)
    padded = [[*row, *[blank] * (num_columns - len(row))] for row in rows]
    cells = torch.stack([torch.stack(row) for row in padded])  # (rows, columns, t, h, w, 3)
    cells = functional.pad(cells, (0, 0, 0, GAP, 0, GAP), value=BACKGROUND)
    return rearrange(cells, "r k t h w c -> t (r h) (k w) c")[:, :-GAP, :-GAP]


def label_columns(video_uint8: Tensor, names: Sequence[str], column_width: int) -> Tensor:
    """A line of text above a tiled video, one name per column of `column_width` pixels."""
    strip = Image.new("RGB", (video_uint8.shape[2], LABEL_HEIGHT), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=10)
    for column, name in enumerate(names):
        draw.text((column * (column_width + GAP) + column_width / 2, 1), name, fill="black", font=font, anchor="ma")
    return torch.cat([_like(strip, video_uint8), video_uint8], dim=1)


def label_rows(video_uint8: Tensor, names: Sequence[str], row_height: int) -> Tensor:
    """Names to the left of a tiled video, one per row of `row_height` pixels."""
    font = ImageFont.load_default(size=11)
    margin = 12 + 2 * math.ceil(max(font.getlength(name) for name in names) / 2)  # even, as H.264 likes it
    strip = Image.new("RGB", (margin, video_uint8.shape[1]), "white")
    draw = ImageDraw.Draw(strip)
    for row, name in enumerate(names):
        draw.text((margin - 6, row * (row_height + GAP) + row_height / 2), name, fill="black", font=font, anchor="rm")
    return torch.cat([_like(strip, video_uint8), video_uint8], dim=2)


def _like(image: Image.Image, video_uint8: Tensor) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)
    return repeat(pixels, "h w c -> t h w c", t=video_uint8.shape[0])


def write_png(path: Path, image_uint8: Tensor) -> None:
    """(h, w, 3) uint8 -> PNG file."""
    path.write_bytes(png(image_uint8))


def png(image_uint8: Tensor) -> bytes:
    """(h, w, 3) uint8 -> PNG."""
    with io.BytesIO() as file:
        Image.fromarray(image_uint8.numpy()).save(file, "PNG")
        return file.getvalue()


def webp(video_uint8: Tensor, fps: float, quality: int = 80) -> bytes:
    """(t, h, w, 3) uint8 -> an endlessly looping animated WebP; a still picture for one frame."""
    first, *others = [Image.fromarray(frame) for frame in video_uint8.numpy()]
    with io.BytesIO() as file:
        duration = round(1000 / fps)  # milliseconds
        first.save(
            file, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, quality=quality, method=4
        )
        return file.getvalue()


def film_strip(video_uint8: Tensor, count: int) -> Tensor:
    """`count` evenly spaced frames of (t, h, w, 3) next to each other: (h, count w, 3)."""
    chosen = torch.linspace(0, video_uint8.shape[0] - 1, count).round().long()
    return rearrange(video_uint8[chosen], "t h w c -> h (t w) c")
