"""Moving shapes, the embedded data set: 8 classes that differ ONLY in motion, as real .avi files in UCF-101 layout.

Position lives on a torus, angle on a circle and size on a logarithmic circle, each drawn uniformly. A uniform draw on
a circle stays uniform under steady motion, so no single frame of any clip, wherever it is cut, tells its class.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.data.video_file import write_video

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
CLIPS_PER_GROUP = 8  # a UCF-101 group = cuts of one video; here: clips on backgrounds of one palette


@dataclass(frozen=True)
class MovingShapesConfig:
    """The embedded data set."""

    resolution: int = 64  # width and height of the files in pixels
    num_frames: int = 33  # frames per file
    fps: int = 25  # frames per second of the files
    train_per_class: int = 48  # training files per class
    validation_per_class: int = 16  # validation files per class
    seed: int = 0  # the same seed gives the same bytes


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


# Radius of the smallest and the largest opaque shape, in widths of the picture.
MIN_RADIUS, MAX_RADIUS = 0.16, 0.36
# Part of the size circle on which the shape that leaves (largest) and the one that enters (smallest) cross-fade.
FADE = 0.09
TABLE_SIZE, TABLE_EXTENT = 257, 1.6  # signed distances are looked up in a table over [-extent, extent]^2


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


def draw_scene(random: np.random.Generator) -> Scene:
    """Draws the state of a clip; the class is not an argument."""
    return Scene(
        shape=str(random.choice(list(SHAPES))),
        x=random.random(),
        y=random.random(),
        angle=random.uniform(0, 2 * np.pi),
        size_phase=random.random(),
        speed=random.uniform(1.0, 1.5) / 64,
        turn=np.deg2rad(random.uniform(5, 8)),
        growth=random.uniform(0.019, 0.025),
    )


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


def _smoothstep(value: np.ndarray) -> np.ndarray:
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def draw_background(random: np.random.Generator, resolution: int) -> np.ndarray:
    """A static, smooth cloud texture (resolution, resolution, 3) in [0, 1] that wraps around, in muted colours."""
    frequency = np.fft.fftfreq(resolution, 1 / resolution)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    spectrum = np.where(radius == 0, 0, 1 / np.maximum(radius, 1) ** 1.7) * np.exp(-((radius / 4) ** 2))
    fields = np.fft.ifft2(np.fft.fft2(random.standard_normal((2, resolution, resolution))) * spectrum).real
    fields /= fields.std(axis=(1, 2), keepdims=True)
    hue = random.random()
    dark = _colour(hue, random.uniform(0.25, 0.5), random.uniform(0.18, 0.3))
    light = _colour(hue + random.uniform(-0.12, 0.12), random.uniform(0.15, 0.4), random.uniform(0.5, 0.68))
    accent = _colour(hue + random.uniform(0.2, 0.4), 0.35, 0.5)
    picture = dark + (light - dark) * _smoothstep(fields[0] / 4 + 0.5)[..., None]
    return (picture + (accent - picture) * 0.45 * _smoothstep(fields[1] / 4 + 0.5)[..., None]).astype(np.float32)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    channel = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value - value * saturation * np.clip(np.minimum(channel, 4 - channel), 0, 1)


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


def _paint(
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
    paint = body + (second - body) * _smoothstep(v + 0.5)[..., None]
    where = (frames[:, None, None], rows % resolution, columns % resolution)  # wraps around
    below = video[where]
    video[where] = below + (paint - below) * cover[..., None].astype(np.float32)


def render(scene: Scene, motion: str, num_frames: int, resolution: int, random: np.random.Generator) -> np.ndarray:
    """Renders a clip, anti-aliased through signed distances.

    Args:
        scene: state at frame 0.
        motion: class name, a key of MOTIONS.
        num_frames: frames.
        resolution: width and height in pixels.
        random: draws colours and background, none of which depends on the class.

    Returns:
        video_uint8: (num_frames, resolution, resolution, 3).
    """
    background = draw_background(random, resolution)
    hue = random.random()
    body = _colour(hue, random.uniform(0.65, 0.9), random.uniform(0.85, 1.0)).astype(np.float32)
    second = _colour(hue + random.uniform(0.3, 0.7), random.uniform(0.2, 0.7), 0.98).astype(np.float32)

    state = scene_states(scene, motion, num_frames)
    video = np.broadcast_to(background, (num_frames, resolution, resolution, 3)).copy()
    entering = _smoothstep(state["size_phase"] / FADE)
    # The shape that leaves at the large end of the sizes lies below the one that enters at the small end.
    for phase, opacity in ((state["size_phase"] + 1, 1 - entering), (state["size_phase"], entering)):
        for frames in np.split(np.arange(num_frames), np.flatnonzero(np.diff(opacity > 0)) + 1):
            if opacity[frames[0]] > 0:
                radius = MIN_RADIUS * (MAX_RADIUS / MIN_RADIUS) ** phase[frames]
                place = np.stack([state["x"][frames], state["y"][frames], state["angle"][frames], radius])
                _paint(video, frames, _TABLES[scene.shape], place, opacity[frames], body, second)
    return (np.clip(video, 0, 1) * 255 + 0.5).astype(np.uint8)


_TABLES = _distance_tables()


def write_moving_shapes(folder: Path, config: MovingShapesConfig) -> None:
    """Writes the data set in UCF-101 layout into `folder`; one that is finished stays, a part of one is redone.

    Layout: Class/v_Class_gXX_cYY.avi, classInd.txt, trainlist01.txt, testlist01.txt. No group is in both lists.

    Raises:
        ValueError: `folder` holds a set made with other settings, or something else.
    """
    marker = folder / "moving_shapes.json"
    if marker.exists():
        if json.loads(marker.read_text()) != asdict(config):
            raise ValueError(f"{folder} was made with other data.shapes settings; remove it or choose another run.name")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files, so moving shapes are not written there; move them away")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for motion in MOTIONS:
        (part / motion).mkdir(parents=True)

    lists: dict[str, list[str]] = {"train": [], "validation": []}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = []
        for motion, split, name, number in _files(config):
            path = f"{motion}/{name}"
            lists[split].append(path)
            jobs.append(pool.submit(_write_clip, part / path, motion, number, config))
        for job in jobs:
            job.result()

    labels = {motion: number for number, motion in enumerate(MOTIONS, start=1)}
    (part / "classInd.txt").write_text("".join(f"{number} {motion}\n" for motion, number in labels.items()))
    (part / "trainlist01.txt").write_text("".join(f"{path} {labels[path.split('/')[0]]}\n" for path in lists["train"]))
    (part / "testlist01.txt").write_text("".join(f"{path}\n" for path in lists["validation"]))
    (part / marker.name).write_text(json.dumps(asdict(config), indent=2))
    if folder.exists():
        folder.rmdir()  # empty; os.replace wants it so or absent
    os.replace(part, folder)


def _files(config: MovingShapesConfig) -> Iterator[tuple[str, str, str, int]]:
    """Yields (class, split, file name, number within the class); groups of the two splits are different."""
    train_groups = -(-config.train_per_class // CLIPS_PER_GROUP)
    for motion in MOTIONS:
        for split, count, first_group in (
            ("train", config.train_per_class, 1),
            ("validation", config.validation_per_class, 1 + train_groups),
        ):
            for i in range(count):
                group, clip = first_group + i // CLIPS_PER_GROUP, 1 + i % CLIPS_PER_GROUP
                number = i if split == "train" else i + config.train_per_class
                yield motion, split, f"v_{motion}_g{group:02d}_c{clip:02d}.avi", number


def _write_clip(path: Path, motion: str, number: int, config: MovingShapesConfig) -> None:
    # The class enters the seed only through a hash, so that no two classes share a scene.
    key = hashlib.blake2b(f"{config.seed}/{motion}/{number}".encode(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(key, "big"))
    video_uint8 = render(draw_scene(random), motion, config.num_frames, config.resolution, random)
    write_video(path, torch.from_numpy(video_uint8), config.fps, codec="mpeg4")
