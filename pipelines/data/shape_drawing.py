"""Draws the embedded data set: one shape on a background that moves over a torus, turns, or changes its size.

Anti-aliased, by signed distances. A picture depends on scene and paint alone, so that what was read from a video can
be drawn again; drawing is differentiable in place, angle, size and rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Per class: steps of x, y (in units of the speed), of the angle (counter-clockwise on the screen) and of log(size).
MOTIONS: dict[str, tuple[int, int, int, int]] = {
    "MoveLeft": (-1, 0, 0, 0),
    "MoveRight": (1, 0, 0, 0),
    "MoveUp": (0, -1, 0, 0),
    "MoveDown": (0, 1, 0, 0),
    "RotateClockwise": (0, 0, -1, 0),
    "RotateCounterclockwise": (0, 0, 1, 0),
    "Grow": (0, 0, 0, 1),
    "Shrink": (0, 0, 0, -1),
}
# Part of the size circle on which the shape that leaves (largest) and the one that enters (smallest) cross-fade.
FADE = 0.09
TABLE_SIZE, TABLE_EXTENT = 257, 1.6  # signed distances are looked up in a table over [-extent, extent]^2


@dataclass(frozen=True)
class Scene:
    """State of one clip at frame 0 and its speeds; every field is drawn without looking at the class."""

    shape: str  # key of SHAPES
    x: float  # position in [0, 1) of the width
    y: float  # position in [0, 1) of the height
    angle: float  # radians
    size_phase: float  # position in [0, 1) on the logarithmic circle of sizes
    speed: float  # of the translation, widths per frame
    turn: float  # radians per frame
    growth: float  # size phase per frame


@dataclass(frozen=True)
class Paint:
    """What a clip is painted with: everything of a picture but the place of the shape."""

    background: np.ndarray  # (resolution, resolution, 3) in [0, 1]
    body: np.ndarray  # (3,) in [0, 1]: the shape's colour
    second: np.ndarray  # (3,): the colour that it runs into, so that every angle looks different
    radii: tuple[float, float]  # of the smallest and the largest opaque shape, in widths of the picture


@dataclass(frozen=True)
class Places:
    """Where n shapes are, as tensors (n,): what shows of a `Scene` under a motion."""

    shape: Tensor  # int64, position in SHAPES
    motion: Tensor  # int64, position in MOTIONS
    x: Tensor
    y: Tensor
    angle: Tensor
    size_phase: Tensor
    rate: Tensor  # of what moves: widths, radians or size phases per frame

    def __getitem__(self, rows: Tensor) -> "Places":
        """The places at `rows`."""
        return Places(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @classmethod
    def of(cls, scenes: Sequence[Scene], motions: Sequence[str], dtype: torch.dtype = torch.float32) -> "Places":
        """Of scenes and the motion of each; what is drawn of them has the same type."""
        pairs = list(zip(scenes, motions, strict=True))
        columns = [[getattr(scene, name) for scene in scenes] for name in ("x", "y", "angle", "size_phase")]
        rates = [getattr(scene, rate_name(motion)) for scene, motion in pairs]
        return cls(
            torch.tensor([list(SHAPES).index(scene.shape) for scene in scenes]),
            torch.tensor([list(MOTIONS).index(motion) for motion in motions]),
            *(torch.tensor(column, dtype=dtype) for column in (*columns, rates)),
        )


def rate_name(motion: str) -> str:
    """Which of a scene's rates shows in a motion."""
    step_x, step_y, step_angle, _ = MOTIONS[motion]
    return "speed" if step_x or step_y else "turn" if step_angle else "growth"


def _polygon(radii: list[float], turn: float = 0.0) -> np.ndarray:
    """Corners (n, 2) at equal angles with the given radii."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii) + turn
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -(y + 2.5)], axis=1) / 15.5


SHAPES: dict[str, np.ndarray] = {
    "square": _polygon([1.05] * 4, np.pi / 4),
    "triangle": _polygon([1.15] * 3, -np.pi / 2),
    "star": _polygon([1.2, 0.55] * 5, -np.pi / 2),
    "heart": _heart(),
    "ellipse": _polygon([1.0] * 48) * [1.1, 0.65],
}


def signed_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distance from points (..., 2) to the edge of a polygon (n, 2), negative inside."""
    distance = np.full(points.shape[:-1], np.inf)
    inside = np.zeros(points.shape[:-1], dtype=bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge, offset = end - start, points - start
        along = np.clip((offset @ edge) / (edge @ edge), 0, 1)
        distance = np.minimum(distance, np.linalg.norm(offset - along[..., None] * edge, axis=-1))
        # Even-odd rule: a ray to the right crosses this edge.
        crosses = (start[1] > points[..., 1]) != (end[1] > points[..., 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (offset[..., 0] < edge[0] * offset[..., 1] / edge[1])
    return np.where(inside, -distance, distance)


def _distance_tables() -> Tensor:
    """(shapes, 1, TABLE_SIZE, TABLE_SIZE): signed distances over [-TABLE_EXTENT, TABLE_EXTENT]^2."""
    axis = np.linspace(-TABLE_EXTENT, TABLE_EXTENT, TABLE_SIZE)
    points = np.stack(np.meshgrid(axis, axis, indexing="xy"), axis=-1)
    tables = np.stack([signed_distance(points, corners) for corners in SHAPES.values()])
    return torch.from_numpy(tables)[:, None]


def states(places: Places, times: Tensor) -> dict[str, Tensor]:
    """State at frames `times` (t,), each (n, t) and on a circle: x, y, size_phase in [0, 1), angle in [0, 2 pi)."""
    steps = torch.tensor(list(MOTIONS.values()), dtype=places.x.dtype)[places.motion]  # (n, 4)
    moved = rearrange(places.rate, "n -> n 1") * times  # (n, t)
    names, periods = ("x", "y", "angle", "size_phase"), (1, 1, 2 * torch.pi, 1)
    return {
        name: (getattr(places, name)[:, None] + steps[:, number, None] * moved) % period
        for number, (name, period) in enumerate(zip(names, periods, strict=True))
    }


def smoothstep(value: Tensor) -> Tensor:
    """0 below 0, 1 above 1, and a smooth step between."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def shares(places: Places, times: Tensor, resolution: int, radii: tuple[float, float], softness: float = 1.0) -> Tensor:
    """What every pixel shows, whatever the colours: (n, t, h, w, 2) shares of body and second colour.

    The rest is background: a clip is linear in its colours. times: (t,) frames; softness: width of edges in pixels.
    """
    state = states(places, times)
    smallest, largest = radii
    entering = smoothstep(state["size_phase"] / FADE)
    centres = (torch.arange(resolution, dtype=entering.dtype) + 0.5) / resolution
    seen = torch.zeros(*entering.shape, resolution, resolution, 2, dtype=entering.dtype)
    # The shape that leaves at the large end of the sizes lies below the one that enters at the small end.
    for phase, opacity in ((state["size_phase"] + 1, 1 - entering), (state["size_phase"], entering)):
        if not (opacity > 0).any():
            continue
        radius = smallest * (largest / smallest) ** phase[..., None, None]  # (n, t, 1, 1)
        across, down = (
            (offsets + 0.5) % 1 - 0.5  # wraps around: no shape is wider than the picture
            for offsets in (
                centres - state["x"][..., None, None],
                centres[:, None] - state["y"][..., None, None],
            )
        )
        cos, sin = (turn(state["angle"])[..., None, None] / radius for turn in (torch.cos, torch.sin))
        u, v = across * cos - down * sin, across * sin + down * cos  # (n, t, h, w), the shape's own axes, in radii
        points = rearrange(torch.stack([u, v], dim=-1) / TABLE_EXTENT, "n t h w two -> n t (h w) two")
        tables = _TABLES[places.shape].to(entering.dtype)  # (n, 1, s, s)
        distance = F.grid_sample(tables, points, padding_mode="border", align_corners=True)  # (n, 1, t, h w)
        distance = rearrange(distance, "n 1 t (h w) -> n t h w", h=resolution)
        cover = opacity[..., None, None] * (0.5 - distance * radius * resolution / softness).clamp(0, 1)
        # Two colours that run into each other make every angle look different, on the square and the ellipse too.
        second = smoothstep(v + 0.5)
        colours = torch.stack([1 - second, second], dim=-1)
        seen = seen + (colours - seen) * cover[..., None]
    return seen


@torch.no_grad()
def render(scene: Scene, motion: str, num_frames: int, paint: Paint) -> np.ndarray:
    """Renders a clip.

    Args:
        scene: state at frame 0.
        motion: class name, a key of MOTIONS.
        num_frames: frames.
        paint: background and colours, none of which depends on the class.

    Returns:
        video_uint8: (num_frames, resolution, resolution, 3).
    """
    # in float64, so that the levels of a file do not hang on the machine
    places, times = Places.of([scene], [motion], torch.float64), torch.arange(num_frames, dtype=torch.float64)
    seen = shares(places, times, len(paint.background), paint.radii)[0]  # (t, h, w, 2)
    background, *colours = (torch.from_numpy(one).double() for one in (paint.background, paint.body, paint.second))
    video = background + torch.einsum(
        "t h w k, k h w c -> t h w c", seen, torch.stack(colours)[:, None, None] - background
    )
    return (video.clamp(0, 1) * 255 + 0.5).byte().numpy()


_TABLES = _distance_tables()
