"""Draws the embedded data set: one shape on a background that moves, turns, or changes its size.

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
TURNS = {"RotateClockwise": (0, 0, -1, 0), "RotateCounterclockwise": (0, 0, 1, 0)}
# On a torus: what leaves at one side enters at the other, and so do sizes.
TORUS: dict[str, tuple[int, int, int, int]] = {
    "MoveLeft": (-1, 0, 0, 0),
    "MoveRight": (1, 0, 0, 0),
    "MoveUp": (0, -1, 0, 0),
    "MoveDown": (0, 1, 0, 0),
    **TURNS,
    "Grow": (0, 0, 0, 1),
    "Shrink": (0, 0, 0, -1),
}
# In a room, where everything goes to and fro, first in either direction, and no shape is cut off.
ROOM: dict[str, tuple[int, int, int, int]] = {
    "MoveHorizontally": (1, 0, 0, 0),
    "MoveVertically": (0, 1, 0, 0),
    "MoveRising": (1, -1, 0, 0),
    "MoveFalling": (1, 1, 0, 0),
    **TURNS,
    "Pulse": (0, 0, 0, 1),
    "Roll": (1, 0, -1, 0),
}
MOTIONS = TORUS | ROOM
WALLS = (0.36, 0.64)  # of the room, between which the middle of a shape stays
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
    size_phase: float  # position in [0, 1) on the logarithmic circle, or line, of sizes
    speed: float  # of the translation, widths per frame
    turn: float  # radians per frame
    growth: float  # size phase per frame
    direction: int = 1  # 1 or -1: where what goes to and fro goes first


@dataclass(frozen=True)
class Sizes:
    """How large shapes are, in widths of the picture, and whether sizes are a circle: the largest fades into the
    smallest; or a line, at whose ends they turn."""

    smallest: float
    largest: float
    is_circle: bool

    def radius(self, size_phase: Tensor) -> Tensor:
        """The radius at a position in [0, 1) among the sizes; beyond 1 for the shape that leaves the circle."""
        return self.smallest * (self.largest / self.smallest) ** size_phase


@dataclass(frozen=True)
class Paint:
    """What a clip is painted with: everything of a picture but the place of the shape."""

    background: np.ndarray  # (resolution, resolution, 3) in [0, 1]
    body: np.ndarray  # (3,) in [0, 1]: the shape's colour
    second: np.ndarray  # (3,): the colour that it runs into, so that every angle looks different
    sizes: Sizes


@dataclass(frozen=True)
class Places:
    """Where n shapes are, as tensors (n,): what shows of a `Scene` under a motion."""

    shape: Tensor  # int64, position in SHAPES
    motion: Tensor  # int64, position in MOTIONS
    x: Tensor
    y: Tensor
    angle: Tensor
    size_phase: Tensor
    rate: Tensor  # of what moves: widths, radians or size phases per frame; signed where it goes to and fro

    def __getitem__(self, rows: Tensor) -> "Places":
        """The places at `rows`."""
        return Places(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @classmethod
    def of(cls, scenes: Sequence[Scene], motions: Sequence[str], dtype: torch.dtype = torch.float32) -> "Places":
        """Of scenes and the motion of each; what is drawn of them has the same type."""
        pairs = list(zip(scenes, motions, strict=True))
        columns = [[getattr(scene, name) for scene in scenes] for name in ("x", "y", "angle", "size_phase")]
        rates = [getattr(scene, rate_name(motion)) * signed(scene.direction, motion) for scene, motion in pairs]
        return cls(
            torch.tensor([list(SHAPES).index(scene.shape) for scene in scenes]),
            torch.tensor([list(MOTIONS).index(motion) for motion in motions]),
            *(torch.tensor(column, dtype=dtype) for column in (*columns, rates)),
        )


def rate_name(motion: str) -> str:
    """Which of a scene's rates shows in a motion."""
    step_x, step_y, step_angle, _ = MOTIONS[motion]
    return "speed" if step_x or step_y else "turn" if step_angle else "growth"


def signed(direction: int, motion: str) -> int:
    """The sign that a scene's direction gives the rate of a motion: none where the class says where it goes."""
    return direction if goes_to_and_fro(motion) else 1


def goes_to_and_fro(motion: str) -> bool:
    """Whether a motion turns at walls, and its rate has a sign."""
    return motion in ROOM and motion not in TURNS


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


def states(places: Places, times: Tensor, sizes: Sizes) -> dict[str, Tensor]:
    """State at frames `times` (t,), each (n, t): x, y, size_phase in [0, 1], angle in [0, 2 pi).

    Uniform states stay uniform at every frame: on circles, and between walls too, where a path is a straight line
    through the room that is run to and fro at a steady rate.
    """
    names = list(MOTIONS)
    turns_back = torch.tensor([goes_to_and_fro(name) for name in names])[places.motion]  # (n,)
    steps = torch.tensor(list(MOTIONS.values()), dtype=places.x.dtype)[places.motion]  # (n, 4)
    moved = rearrange(places.rate, "n -> n 1") * times  # (n, t)
    periods = {"x": 1, "y": 1, "angle": 2 * torch.pi, "size_phase": 1}
    circling = {
        name: (getattr(places, name)[:, None] + steps[:, number, None] * moved) % period
        for number, (name, period) in enumerate(periods.items())
    }
    if not turns_back.any():
        return circling
    bounced = _between_walls(places, steps, moved, sizes)
    return {name: torch.where(turns_back[:, None], bounced[name], circling[name]) for name in circling}


def _between_walls(places: Places, steps: Tensor, moved: Tensor, sizes: Sizes) -> dict[str, Tensor]:
    """The state of what goes to and fro. steps: (n, 4), moved: (n, t) in the units of the rate."""
    low, high = WALLS
    x, y, angle, size_phase = (
        getattr(places, name)[:, None].expand_as(moved) for name in ("x", "y", "angle", "size_phase")
    )
    step_x, step_y, step_angle, step_size = (steps[:, None, number] for number in range(4))
    slope = step_x * step_y  # -1, 0, 1: rising on the screen, level or upright, falling
    upright = torch.where(slope < 0, low + high - y, y)
    offset = torch.where(slope != 0, upright - x, 0)  # of a diagonal from the one through the corners
    start, end = (low - offset).clamp(min=low), (high - offset).clamp(max=high)  # of the path, along x
    # every path takes the same time, so that one near a corner is slow instead of trembling
    pace = (end - start) / (high - low) * torch.where(slope != 0, 0.5**0.5, 1.0)
    across = torch.where(step_x != 0, _to_and_fro(x + moved * pace, start, end), x)
    down = torch.where(step_x == 0, _to_and_fro(y + step_y.abs() * moved, low, high), y)
    diagonal = across + offset
    diagonal = torch.where(slope < 0, low + high - diagonal, diagonal)
    return {
        "x": across,
        "y": torch.where(slope != 0, diagonal, down),
        "angle": (angle + step_angle * (across - x) / sizes.radius(size_phase)) % (2 * torch.pi),
        "size_phase": torch.where(step_size != 0, _to_and_fro(size_phase + moved, 0.0, 1.0), size_phase),
    }


def _to_and_fro(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """A straight line that is reflected at `low` and `high`."""
    length = (torch.as_tensor(high) - torch.as_tensor(low)).clamp(min=1e-6)
    along = (value - low) % (2 * length)
    return low + torch.minimum(along, 2 * length - along)


def smoothstep(value: Tensor) -> Tensor:
    """0 below 0, 1 above 1, and a smooth step between."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def shares(places: Places, times: Tensor, resolution: int, sizes: Sizes, softness: float = 1.0) -> Tensor:
    """What every pixel shows, whatever the colours: (n, t, h, w, 2) shares of body and second colour.

    The rest is background: a clip is linear in its colours. times: (t,) frames; softness: width of edges in pixels.
    """
    state = states(places, times, sizes)
    entering = smoothstep(state["size_phase"] / FADE) if sizes.is_circle else torch.ones_like(state["size_phase"])
    centres = (torch.arange(resolution, dtype=entering.dtype) + 0.5) / resolution
    seen = torch.zeros(*entering.shape, resolution, resolution, 2, dtype=entering.dtype)
    # The shape that leaves at the large end of the sizes lies below the one that enters at the small end.
    for phase, opacity in ((state["size_phase"] + 1, 1 - entering), (state["size_phase"], entering)):
        if not (opacity > 0).any():
            continue
        radius = sizes.radius(phase)[..., None, None]  # (n, t, 1, 1)
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
    seen = shares(places, times, len(paint.background), paint.sizes)[0]  # (t, h, w, 2)
    background, *colours = (torch.from_numpy(one).double() for one in (paint.background, paint.body, paint.second))
    video = background + torch.einsum(
        "t h w k, k h w c -> t h w c", seen, torch.stack(colours)[:, None, None] - background
    )
    return (video.clamp(0, 1) * 255 + 0.5).byte().numpy()


_TABLES = _distance_tables()
