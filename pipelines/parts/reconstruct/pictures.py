"""Pictures of a reconstructed video and its components: side by side in motion, and over time in one figure."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from pipelines.data.pictures import GAP, LABEL_HEIGHT, RESIDUAL_GAIN, flow_to_rgb, label_columns, label_rows, tile
from pipelines.data.video_file import to_uint8

ERROR_GAIN = 4.0  # |x - x^| is drawn four times as strong, on black
LARGEST_SHOWN, SMALLEST_SHOWN = 360, 96  # pixels of the short side of one video among the others
FIGURE_SHOWN, FIGURE_COLUMNS = 112, 7
FIGURE_SPAN = 25  # frames: the first ones of a file, so that motion can be followed
ASPECT = 16 / 9  # of a screen: into how many rows the videos are put
# Rows of the figure and tiles of the video: label -> component. What is decoded stands below what it was made from.
TRUE_AND_DECODED = {
    "original": "original",
    "keyframe": "keyframe",
    "decoded keyframe": "decoded_keyframe",
    "motion": "motion",
    "decoded motion": "decoded_motion",
    "warp": "warped",
    "decoded warp": "decoded_warped",
    "residual": "residual",
    "decoded residual": "decoded_residual",
    "reconstruction": "reconstruction",
    "error": "error",
}
# In the video: nine tiles in three rows on a wide screen; six without motion, three without components.
SIDE_BY_SIDE = (
    *("original", "decoded keyframe", "decoded warp", "motion", "decoded motion", "error"),
    *("residual", "decoded residual", "reconstruction"),
)
OF_MOTION = ("motion", "decoded_motion", "warped", "decoded_warped")


def shown_size(video: Tensor, smallest: int, largest: int) -> tuple[int, int]:
    """Height and width to show (..., h, w) at: its own where the short side is from `smallest` to `largest` pixels."""
    height, width = video.shape[-2:]
    short = min(height, width)
    scale = min(max(short, smallest), largest) / short
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_components(components: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Components (1, 3, t, h, w) at another size (h', w'): antialiased when smaller, in blocks when larger."""
    first = next(iter(components.values()))
    if tuple(first.shape[-2:]) == size:
        return components
    enlarge = size[0] > first.shape[-2]
    options = {"mode": "nearest"} if enlarge else {"mode": "bilinear", "antialias": True}
    resized = {}
    for name, x in components.items():
        frames = rearrange(x, "1 c t h w -> t c h w").float()
        resized[name] = rearrange(functional.interpolate(frames, size=size, **options), "t c h w -> 1 c t h w")
    return resized


def drawn_components(components: dict[str, Tensor], has_motion: bool) -> dict[str, Tensor]:
    """Components of `component_stream` (1, 3, t, h, w), "original" among them -> label: (t, h, w, 3) uint8.

    Motion becomes colour, residuals grey +- their values times RESIDUAL_GAIN, the error |x - x^| times ERROR_GAIN. What
    an autoencoder without motion has to show for it (zeros, copies of the keyframe) is left out.
    """
    error = (components["reconstruction"].clamp(-1, 1) - components["original"]).abs()
    components = components | {"error": error * ERROR_GAIN - 1}
    drawn = {}
    for label, name in TRUE_AND_DECODED.items():
        if name in components and (has_motion or name not in OF_MOTION):
            video = components[name][0].detach().float().cpu()
            if "motion" in name:
                drawn[label] = flow_to_rgb(video)
            else:
                drawn[label] = to_uint8(video * RESIDUAL_GAIN if "residual" in name else video)
    return drawn


def side_by_side(components: dict[str, Tensor], has_motion: bool) -> Tensor:
    """Components (1, 3, t, h, w) of one piece of a video -> labelled tiles (t, H, W, 3) uint8."""
    height, width = shown_size(components["original"], SMALLEST_SHOWN, LARGEST_SHOWN)
    drawn = drawn_components(resize_components(components, (height, width)), has_motion)
    labels = [label for label in SIDE_BY_SIDE if label in drawn]
    columns = best_columns(len(labels), height, width)
    rows = [labels[start : start + columns] for start in range(0, len(labels), columns)]
    lines = []
    for row in rows:
        blank = [torch.full_like(drawn["original"], 255)] * (columns - len(row))
        tiles = tile([[*(drawn[label] for label in row), *blank]])
        lines.append(label_columns(tiles, [label_text(label) for label in row], width))
    return torch.cat(lines, dim=1)


def label_text(label: str) -> str:
    """With the gain where pixels are drawn stronger than they are."""
    if "residual" in label:
        return f"{label} x{RESIDUAL_GAIN:g}"
    return f"{label} x{ERROR_GAIN:g}" if label == "error" else label


def best_columns(count: int, height: int, width: int) -> int:
    """Columns into which `count` tiles are put: close to the shape of a screen, with few cells left empty."""

    def distance(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = abs(math.log(columns * (width + GAP) / (rows * (height + LABEL_HEIGHT)) / ASPECT))
        return shape + 2 * (rows * columns - count) / count

    return min(range(1, count + 1), key=distance)


def figure_frames(num_frames: int) -> list[int]:
    """Frames of a video that the figure shows: at most FIGURE_COLUMNS, from the first FIGURE_SPAN."""
    last = min(num_frames, FIGURE_SPAN) - 1
    return torch.linspace(0, last, min(FIGURE_COLUMNS, last + 1)).round().long().unique().tolist()


class FigureFrames:
    """Gathers the frames of the figure while a video comes piece by piece, at the size of the figure."""

    def __init__(self, num_frames: int, has_motion: bool) -> None:
        self.wanted, self.has_motion = figure_frames(num_frames), has_motion
        self.drawn: dict[str, list[Tensor]] = {}

    def add(self, start: int, components: dict[str, Tensor]) -> None:
        """components: (1, 3, t, h, w) of the frames from `start` on."""
        length = components["original"].shape[2]
        inside = [number - start for number in self.wanted if start <= number < start + length]
        if not inside:
            return
        chosen = {name: x[:, :, inside] for name, x in components.items()}
        size = shown_size(chosen["original"], FIGURE_SHOWN, FIGURE_SHOWN)
        for label, frames in drawn_components(resize_components(chosen, size), self.has_motion).items():
            self.drawn.setdefault(label, []).extend(frames)

    def figure(self, decibels: dict[str, float | None], keyframes: Sequence[int]) -> Tensor:
        """Rows of components over time (DeCo-VAE Figures 3 and 5) -> (H, W, 3) uint8.

        decibels: PSNR by the label of the row that it is written on; keyframes: numbers of the frames that are some.
        """
        labels = list(self.drawn)
        rows = [[frame.unsqueeze(0) for frame in self.drawn[label]] for label in labels]
        _, height, width, _ = rows[0][0].shape
        grid = label_columns(tile(rows), [column_text(n, keyframes) for n in self.wanted], width)
        names = [with_decibels(label, decibels.get(label)) for label in labels]
        return label_margin(grid, names, height)


def column_text(number: int, keyframes: Sequence[int]) -> str:
    """The text of a column."""
    return f"keyframe {number}" if number in keyframes else f"frame {number}"


def with_decibels(label: str, decibels: float | None) -> str:
    """The text of a row."""
    return label_text(label) + ("" if decibels is None else f"  {decibels:.1f} dB")


def label_margin(grid: Tensor, names: Sequence[str], row_height: int) -> Tensor:
    """`label_rows` below a line of column labels: (1, H, W, 3) uint8 -> (H, W', 3)."""
    head, body = grid.split([LABEL_HEIGHT, grid.shape[1] - LABEL_HEIGHT], dim=1)
    labelled = label_rows(body, names, row_height)
    margin = labelled.shape[2] - body.shape[2]
    return torch.cat([functional.pad(head, (0, 0, margin, 0), value=255), labelled], dim=1)[0]
