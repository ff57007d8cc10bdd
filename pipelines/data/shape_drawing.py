"""Draws the embedded data set: one shape on a background that moves over a torus, turns, or changes its size.

Anti-aliased, by signed distances. A picture depends on scene and paint alone, so that what was read from a video can
be drawn again.
"""

from dataclasses import dataclass

import numpy as np

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
    """State of one clip at frame 0, its speeds and its colours; every field is drawn without looking at the class."""

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


def _distance_tables() -> dict[str, np.ndarray]:
    axis = np.linspace(-TABLE_EXTENT, TABLE_EXTENT, TABLE_SIZE)
    points = np.stack(np.meshgrid(axis, axis, indexing="xy"), axis=-1)
    return {name: signed_distance(points, corners).astype(np.float32) for name, corners in SHAPES.items()}


def scene_states(scene: Scene, motion: str, num_frames: int) -> dict[str, np.ndarray]:
    """State per frame, each (num_frames,) and on a circle: x, y, size_phase in [0, 1), angle in [0, 2 pi)."""
    step_x, step_y, step_angle, step_size = MOTIONS[motion]
    time = np.arange(num_frames)
    return {
        "x": (scene.x + step_x * scene.speed * time) % 1,
        "y": (scene.y + step_y * scene.speed * time) % 1,
        "angle": (scene.angle + step_angle * scene.turn * time) % (2 * np.pi),
        "size_phase": (scene.size_phase + step_size * scene.growth * time) % 1,
    }


def smoothstep(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a smooth step between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _look_up(table: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up of the distance table at local coordinates u, v; beyond the table its border value."""
    scale = (TABLE_SIZE - 1) / (2 * TABLE_EXTENT)
    u = np.clip((u + TABLE_EXTENT) * scale, 0, TABLE_SIZE - 1.001)
    v = np.clip((v + TABLE_EXTENT) * scale, 0, TABLE_SIZE - 1.001)
    column, row = u.astype(np.int32), v.astype(np.int32)
    u, v, corner = u - column, v - row, row * TABLE_SIZE + column
    flat = table.ravel()
    upper = flat[corner] * (1 - u) + flat[corner + 1] * u
    lower = flat[corner + TABLE_SIZE] * (1 - u) + flat[corner + TABLE_SIZE + 1] * u
    return upper * (1 - v) + lower * v


def _blend(
    video: np.ndarray,
    frames: np.ndarray,
    table: np.ndarray,
    place: np.ndarray,
    opacity: np.ndarray,
    body: np.ndarray,
    second: np.ndarray,
) -> None:
    """Blends one shape into video[frames]; place: (4, n) = x, y, angle, radius; touches only a window around it."""
    resolution = video.shape[1]
    x, y, angle, radius = place.astype(np.float32)[:, :, None, None]  # each (n, 1, 1)
    window = min(resolution, int(2 * 1.25 * radius.max() * resolution) + 3)  # no shape reaches beyond 1.25
    first_column, first_row = (np.floor(centre * resolution - window / 2).astype(int) for centre in (x, y))
    columns, rows = first_column + np.arange(window), first_row + np.arange(window)[:, None]  # (n, 1, w), (n, w, 1)
    across, down = (columns + 0.5) / resolution - x, (rows + 0.5) / resolution - y
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    u = (across * cos - down * sin).astype(np.float32)  # (n, w, w) in the shape's own axes, in radii
    v = (across * sin + down * cos).astype(np.float32)

    to_pixels = radius * resolution
    cover = opacity[:, None, None] * np.clip(0.5 - _look_up(table, u, v) * to_pixels, 0, 1)
    # Two colours that run into each other make every angle look different, on the square and the ellipse too.
    colour = body + (second - body) * smoothstep(v + 0.5)[..., None]
    where = (frames[:, None, None], rows % resolution, columns % resolution)  # wraps around
    below = video[where]
    video[where] = below + (colour - below) * cover[..., None].astype(np.float32)


def shares(
    scene: Scene, motion: str, num_frames: int, resolution: int, radii: tuple[float, float], step: int = 1
) -> np.ndarray:
    """What every pixel shows, whatever the colours: (num_frames, h, w, 3) shares of body, second colour, background.

    A clip is linear in its colours: these shares times (body, second, background). step: every step-th frame only.
    """
    black = np.zeros((resolution, resolution, 3), dtype=np.float32)
    body, second = np.eye(3, dtype=np.float32)[:2]
    seen = _draw(scene, motion, num_frames, Paint(black, body, second, radii), step)
    seen[..., 2] = 1 - seen[..., 0] - seen[..., 1]
    return seen


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
    return (np.clip(_draw(scene, motion, num_frames, paint), 0, 1) * 255 + 0.5).astype(np.uint8)


def _draw(scene: Scene, motion: str, num_frames: int, paint: Paint, step: int = 1) -> np.ndarray:
    """(frames, h, w, 3) in [0, 1]."""
    state = {name: values[::step] for name, values in scene_states(scene, motion, num_frames).items()}
    num_frames = len(state["x"])
    video = np.repeat(paint.background[None], num_frames, axis=0)
    smallest, largest = paint.radii
    entering = smoothstep(state["size_phase"] / FADE)
    # The shape that leaves at the large end of the sizes lies below the one that enters at the small end.
    for phase, opacity in ((state["size_phase"] + 1, 1 - entering), (state["size_phase"], entering)):
        for frames in np.split(np.arange(num_frames), np.flatnonzero(np.diff(opacity > 0)) + 1):
            if opacity[frames[0]] > 0:
                radius = smallest * (largest / smallest) ** phase[frames]
                place = np.stack([state["x"][frames], state["y"][frames], state["angle"][frames], radius])
                _blend(video, frames, _TABLES[scene.shape], place, opacity[frames], paint.body, paint.second)
    return video


_TABLES = _distance_tables()
