"""Moving shapes, the embedded data set: 8 classes that differ ONLY in motion, as real .avi files in UCF-101 layout.

Position, angle and size are drawn uniformly, on circles or between walls. A uniform draw stays uniform under steady
motion, around a circle or to and fro, so no single frame of any clip, wherever it is cut, tells its class.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data.shape_drawing import ROOM, TORUS, WALLS, Paint, Scene, Sizes, render, smoothstep
from pipelines.data.video_file import write_video

CLIPS_PER_GROUP = 8  # a UCF-101 group = cuts of one video; here: clips of the same number in both lists
FACTORS_FILE = "factors.jsonl"  # what every clip shows


@dataclass(frozen=True)
class Look:
    """What scenes are drawn from."""

    shapes: tuple[str, ...]
    motions: tuple[str, ...]  # the classes
    sizes: Sizes
    places: tuple[float, float]  # between which the middle of a shape is at first, in widths of the picture
    speed: tuple[float, float]  # pixels of 64 per frame
    turn: tuple[float, float]  # degrees per frame
    growth: tuple[float, float]  # of the circle, or the line, of sizes, per frame
    codec: str  # of the files


LOOKS = {
    # A few colours, motions seen at a glance, files without loss: a codec at this size draws a grid of its own.
    "plain": Look(
        shapes=("square", "triangle", "star", "heart"),
        motions=tuple(ROOM),
        sizes=Sizes(0.2, 0.3, is_circle=False),
        places=WALLS,
        speed=(1.5, 2.0),
        turn=(8, 12),
        growth=(0.05, 0.07),
        codec="lossless",
    ),
    # Clouds in any colours, as hard to reconstruct as small real clips are.
    "textured": Look(
        shapes=("square", "triangle", "star", "heart", "ellipse"),
        motions=tuple(TORUS),
        sizes=Sizes(0.16, 0.36, is_circle=True),
        places=(0.0, 1.0),
        speed=(1.0, 1.5),
        turn=(5, 8),
        growth=(0.019, 0.025),
        codec="mpeg4",
    ),
}
# Of the plain look, as 0xRRGGBB: the top and the bottom of a background; of every shape its own colour and the pale
# tone that it runs into, which no background comes near.
BACKGROUNDS = ((0x6FA8D6, 0xA9CDE8), (0xD9B98A, 0xB98F5E), (0x7FB69A, 0x4F8A6E), (0x5A6480, 0x2F3650))
BODIES = {
    "square": (0x2450C0, 0xD2E2FF),
    "triangle": (0x7E35B8, 0xEFD8FB),
    "star": (0xF5A623, 0xFFF3CF),
    "heart": (0xD93636, 0xFCD3CA),
}


@dataclass(frozen=True)
class MovingShapesConfig:
    """The embedded data set."""

    look: str = "textured"  # textured (clouds, any colours) or plain (a few colours, lossless: easier to generate)
    resolution: int = 64  # width and height of the files in pixels
    num_frames: int = 33  # frames per file
    fps: int = 25  # frames per second of the files
    train_per_class: int = 48  # training files per class
    validation_per_class: int = 16  # validation files per class
    seed: int = 0  # the same seed gives the same bytes

    def __post_init__(self) -> None:
        if self.look not in LOOKS:
            raise ValueError(f"data.shapes.look is one of {', '.join(LOOKS)}, got {self.look!r}")


def draw_scene(look: Look, random: np.random.Generator) -> Scene:
    """Draws the state of a clip; the class is not an argument."""
    return Scene(
        shape=str(random.choice(list(look.shapes))),
        x=random.uniform(*look.places),
        y=random.uniform(*look.places),
        angle=random.uniform(0, 2 * np.pi),
        size_phase=random.random(),
        speed=random.uniform(*look.speed) / 64,
        turn=np.deg2rad(random.uniform(*look.turn)),
        growth=random.uniform(*look.growth),
        direction=int(random.choice([-1, 1])) if look.places == WALLS else 1,
    )


def plain_paint(background: int, shape: str, resolution: int) -> Paint:
    """Number `background` of BACKGROUNDS, a vertical gradient, and the colours of a shape."""
    top, bottom = (_rgb(colour) for colour in BACKGROUNDS[background])
    down = ((np.arange(resolution, dtype=np.float32) + 0.5) / resolution)[:, None, None]
    picture = np.broadcast_to(top + (bottom - top) * down, (resolution, resolution, 3)).astype(np.float32)
    own, second = (_rgb(colour) for colour in BODIES[shape])
    return Paint(picture, own, second, LOOKS["plain"].sizes)


def textured_paint(random: np.random.Generator, resolution: int) -> Paint:
    """A cloud texture, and a body of any hue."""
    background = draw_background(random, resolution)
    hue = random.random()
    body = _colour(hue, random.uniform(0.65, 0.9), random.uniform(0.85, 1.0)).astype(np.float32)
    second = _colour(hue + random.uniform(0.3, 0.7), random.uniform(0.2, 0.7), 0.98).astype(np.float32)
    return Paint(background, body, second, LOOKS["textured"].sizes)


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
    first, second = smoothstep(torch.from_numpy(fields) / 4 + 0.5).numpy()[..., None]
    picture = dark + (light - dark) * first
    return (picture + (accent - picture) * 0.45 * second).astype(np.float32)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    channel = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value - value * saturation * np.clip(np.minimum(channel, 4 - channel), 0, 1)


def _rgb(colour: int) -> np.ndarray:
    """0xRRGGBB -> (3,) in [0, 1]."""
    return np.array([colour >> 16, colour >> 8 & 255, colour & 255], dtype=np.float32) / 255


def write_moving_shapes(folder: Path, config: MovingShapesConfig) -> None:
    """Writes the data set in UCF-101 layout into `folder`; one that is finished stays, a part of one is redone.

    Layout: Class/v_Class_gXX_cYY.avi, classInd.txt, trainlist01.txt, testlist01.txt. No group is in both lists.

    Raises:
        ValueError: `folder` holds a set made with other settings, or something else.
    """
    marker = folder / "moving_shapes.json"
    if marker.exists():
        if asdict(MovingShapesConfig()) | json.loads(marker.read_text()) != asdict(config):
            raise ValueError(f"{folder} was made with other data.shapes settings; remove it or choose another run.name")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files, so moving shapes are not written there; move them away")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    motions = LOOKS[config.look].motions
    for motion in motions:
        (part / motion).mkdir(parents=True)

    lists: dict[str, list[str]] = {"train": [], "validation": []}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = []
        for motion, split, name, number in _files(config):
            path = f"{motion}/{name}"
            lists[split].append(path)
            jobs.append(pool.submit(_write_clip, part, path, motion, number, config))
        lines = [json.dumps(job.result()) for job in jobs]

    (part / FACTORS_FILE).write_text("\n".join(lines) + "\n")
    labels = {motion: number for number, motion in enumerate(motions, start=1)}
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
    for motion in LOOKS[config.look].motions:
        for split, count, first_group in (
            ("train", config.train_per_class, 1),
            ("validation", config.validation_per_class, 1 + train_groups),
        ):
            for i in range(count):
                group, clip = first_group + i // CLIPS_PER_GROUP, 1 + i % CLIPS_PER_GROUP
                number = i if split == "train" else i + config.train_per_class
                yield motion, split, f"v_{motion}_g{group:02d}_c{clip:02d}.avi", number


def _write_clip(folder: Path, path: str, motion: str, number: int, config: MovingShapesConfig) -> dict[str, Any]:
    """Write one clip; its factors."""
    # The class enters the seed only through a hash, so that no two classes share a scene.
    key = hashlib.blake2b(f"{config.seed}/{motion}/{number}".encode(), digest_size=8).digest()
    random, look = np.random.default_rng(int.from_bytes(key, "big")), LOOKS[config.look]
    scene, colours = draw_scene(look, random), dict[str, int]()
    if config.look == "plain":
        colours = {"background": int(random.integers(len(BACKGROUNDS)))}
        paint = plain_paint(**colours, shape=scene.shape, resolution=config.resolution)
    else:
        paint = textured_paint(random, config.resolution)
    video_uint8 = render(scene, motion, config.num_frames, paint)
    write_video(folder / path, torch.from_numpy(video_uint8), config.fps, codec=look.codec)
    return {"path": path, "motion": motion, **asdict(scene), **colours}
