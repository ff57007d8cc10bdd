"""Moving shapes: deterministic files in UCF-101 layout, right motions, and no class in any single frame."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.shape_drawing import (
    FADE,
    MOTIONS,
    SHAPES,
    Places,
    Scene,
    render,
    shares,
    signed_distance,
    states,
)
from pipelines.data.split_lists import group_of, read_split_lists
from pipelines.data.synthetic import (
    BACKGROUNDS,
    BODIES,
    FACTORS_FILE,
    LOOKS,
    MovingShapesConfig,
    draw_scene,
    plain_paint,
    textured_paint,
    write_moving_shapes,
)
from pipelines.data.video_file import read_video

TINY = MovingShapesConfig("plain", resolution=32, num_frames=5, train_per_class=9, validation_per_class=2)
PLAIN, TEXTURED = LOOKS["plain"], LOOKS["textured"]


def state_of(scene: Scene, motion: str, num_frames: int) -> dict[str, np.ndarray]:
    """{name: (num_frames,)} of one scene."""
    found = states(Places.of([scene], [motion]), torch.arange(num_frames, dtype=torch.float32))
    return {name: values[0].numpy() for name, values in found.items()}


def picture(scene: Scene, motion: str, num_frames: int, size: int = 64) -> np.ndarray:
    """On clouds, in random colours that are always the same: (num_frames, size, size, 3) uint8."""
    return render(scene, motion, num_frames, textured_paint(np.random.default_rng(1), size))


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "moving_shapes"
    write_moving_shapes(folder, TINY)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_layout_is_that_of_ucf101(tiny_set) -> None:
    classes, splits = read_split_lists(tiny_set, 1)
    assert set(classes) == set(MOTIONS)
    assert set(splits) == {path for path in contents(tiny_set) if path.endswith(".avi")}
    sides = {split: {group_of(path) for path in splits if splits[path] == split} for split in ("train", "validation")}
    assert not sides["train"] & sides["validation"]
    assert sum(split == "train" for split in splits.values()) == 8 * 9 and len(splits) == 8 * 11
    assert read_video(tiny_set / "Grow" / "v_Grow_g01_c01.avi").shape == (5, 32, 32, 3)


def test_same_seed_same_bytes_and_another_seed_others(tiny_set, tmp_path) -> None:
    write_moving_shapes(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(tiny_set)
    write_moving_shapes(tmp_path / "other", replace(TINY, seed=1, train_per_class=1))
    name = "Grow/v_Grow_g01_c01.avi"
    assert (tmp_path / "other" / name).read_bytes() != (tiny_set / name).read_bytes()


def test_killed_generation_is_redone_and_finished_one_is_kept(tiny_set, tmp_path) -> None:
    folder = tmp_path / "moving_shapes"
    half = tmp_path / "moving_shapes.part" / "Grow"
    half.mkdir(parents=True)
    (half / "v_Grow_g77_c01.avi").write_bytes(b"half a file")
    small = replace(TINY, train_per_class=1, validation_per_class=1)
    write_moving_shapes(folder, small)
    assert not half.exists() and not list(folder.rglob("*g77*"))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_moving_shapes(folder, small)
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match=r"data\.shapes"):
        write_moving_shapes(folder, replace(small, seed=5))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "holiday.avi").touch()
    with pytest.raises(ValueError, match="holds other files"):
        write_moving_shapes(folder, small)


def test_first_frame_is_the_same_picture_for_every_class() -> None:
    """Given scene and colours, which are drawn without looking at the class."""
    scene = draw_scene(TEXTURED, np.random.default_rng(3))
    pictures = [picture(scene, motion, 1, 32)[0] for motion in MOTIONS]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("frame", [0, 5, 16, 32])
def test_no_frame_tells_the_class(frame: int, look: str) -> None:
    """The state of every class is uniform at every frame, wherever the clip is cut (Kolmogorov-Smirnov distance)."""
    random = np.random.default_rng(0)
    count = 4000
    for motion in MOTIONS:
        places = Places.of([draw_scene(LOOKS[look], random) for _ in range(count)], [motion] * count)
        state = states(places, torch.tensor([float(frame)]))
        for name, period in (("x", 1), ("y", 1), ("angle", 2 * np.pi), ("size_phase", 1)):
            values = np.sort(state[name][:, 0].numpy()) / period
            distance = np.abs(values - (np.arange(count) + 0.5) / count).max()
            assert distance < 1.95 / np.sqrt(count), (motion, name)  # exceeded by chance once in 1000


def shape_mask(scene, motion: str, num_frames: int) -> np.ndarray:
    """Where the picture differs from the background, which a far smaller shape leaves alone; (t, h, w)."""
    pictures = picture(scene, motion, num_frames, 64).astype(int)
    away = replace(scene, x=(scene.x + 0.5) % 1, y=(scene.y + 0.5) % 1)
    elsewhere = picture(away, motion, num_frames).astype(int)
    return np.abs(pictures - elsewhere).max(axis=-1) > 40


@pytest.fixture
def centred():
    scene = draw_scene(TEXTURED, np.random.default_rng(7))
    return replace(scene, shape="heart", x=0.5, y=0.5, angle=0.3, size_phase=FADE)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("MoveLeft", 2, -1), ("MoveRight", 2, 1), ("MoveUp", 1, -1), ("MoveDown", 1, 1)]
)
def test_shapes_move_as_their_class_says(centred, motion: str, axis: int, sign: int) -> None:
    mask = shape_mask(centred, motion, 9)[:, 16:48, 16:48]
    centres = [np.argwhere(frame).mean(axis=0)[axis - 1] for frame in mask]
    steps = sign * np.diff(centres)
    assert (steps > 0.6).all() and (steps < 1.7).all()  # 1 to 1.5 pixels per frame


@pytest.mark.parametrize(("motion", "sign"), [("Grow", 1), ("Shrink", -1)])
def test_size_changes_as_the_class_says(centred, motion: str, sign: int) -> None:
    scene = replace(centred, size_phase=0.5)
    areas = shape_mask(scene, motion, 17)[:, 10:54, 10:54].sum(axis=(1, 2))
    assert (sign * np.diff(areas) >= 0).all()
    assert 1.5 < (areas[-1] / areas[0]) ** sign < 4


def test_rotation_turns_as_the_class_says(centred) -> None:
    def mask(angle: float) -> np.ndarray:
        return shape_mask(replace(centred, angle=angle, size_phase=0.4), "MoveUp", 1)[0, 16:48, 16:48]

    # np.rot90 turns a picture counter-clockwise
    assert (np.rot90(mask(0.3)) != mask(0.3 + np.pi / 2)).mean() < 0.02
    assert (np.rot90(mask(0.3)) != mask(0.3 - np.pi / 2)).mean() > 0.05
    for motion, sign in (("RotateCounterclockwise", 1), ("RotateClockwise", -1)):
        turns = np.diff(np.unwrap(state_of(centred, motion, 17)["angle"])) * sign
        assert (turns > np.deg2rad(4.9)).all() and (turns < np.deg2rad(8.1)).all()


def test_shapes_wrap_around(centred) -> None:
    inside = picture(centred, "MoveUp", 1, 64).astype(int)
    across = picture(replace(centred, x=0.0, y=0.0), "MoveUp", 1, 64).astype(int)
    mask = shape_mask(centred, "MoveUp", 1)[0]
    mask[:16], mask[48:], mask[:, :16], mask[:, 48:] = False, False, False, False
    rolled = np.roll(across, (32, 32), axis=(1, 2))
    assert mask.sum() > 50 and np.abs(inside[0][mask] - rolled[0][mask]).max() < 90  # the same but for its edge
    assert np.median(np.abs(inside[0][mask] - rolled[0][mask])) == 0


def test_every_shape_shows_every_angle() -> None:
    """No turn by less than a full one gives the same picture, so both rotations can be seen on all shapes."""
    for shape in SHAPES:
        scene = replace(
            draw_scene(TEXTURED, np.random.default_rng(2)), shape=shape, x=0.5, y=0.5, size_phase=0.6, angle=0.0
        )
        pictures = [
            picture(replace(scene, angle=angle), "MoveUp", 1, 64).astype(int)
            for angle in np.deg2rad([0, 72, 90, 120, 144, 180, 240, 270])
        ]
        assert all(np.abs(picture - pictures[0]).mean() > 1 for picture in pictures[1:]), shape


def test_signed_distance_of_a_square_is_the_closed_form() -> None:
    corners = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    points = np.random.default_rng(0).uniform(-2, 2, (500, 2))
    beyond = np.abs(points) - 1
    expected = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)
    assert np.allclose(signed_distance(points, corners), expected)


def test_factors_draw_every_file_again_to_the_level(tmp_path) -> None:
    """The files hold no loss, and factors.jsonl holds all that they show."""
    folder = tmp_path / "shapes"
    write_moving_shapes(folder, replace(TINY, train_per_class=2))
    lines = [json.loads(line) for line in (folder / FACTORS_FILE).read_text().splitlines()]
    assert {line["path"] for line in lines} == {str(path.relative_to(folder)) for path in folder.rglob("*.avi")}
    for line in lines:
        path, motion, background = (line.pop(name) for name in ("path", "motion", "background"))
        paint = plain_paint(background, line.pop("body"), 32)
        assert np.array_equal(read_video(folder / path).numpy(), render(Scene(**line), motion, 5, paint)), path


def test_colours_are_shares_of_body_second_and_background() -> None:
    """What is drawn is linear in its colours, and nothing is outside 0 and 1."""
    scene, paint = draw_scene(PLAIN, np.random.default_rng(5)), plain_paint(1, 2, 64)
    seen = shares(Places.of([scene], ["Grow"]), torch.arange(33.0), 64, PLAIN.radii)[0].numpy()
    assert seen.min() >= 0 and seen.sum(axis=-1).max() <= 1 + 1e-6
    expected = seen @ np.stack([paint.body, paint.second]) + (1 - seen.sum(axis=-1))[..., None] * paint.background
    assert np.abs(render(scene, "Grow", 33, paint) - 255 * expected).max() <= 0.51


def test_the_plain_look_has_few_colours_and_the_textured_one_many(tmp_path) -> None:
    assert (len(BACKGROUNDS), len(BODIES)) == (4, 6)
    for look, codec in (("plain", "ffv1"), ("textured", "mpeg4")):
        write_moving_shapes(tmp_path / look, replace(TINY, look=look, train_per_class=1, validation_per_class=1))
        content = (tmp_path / look / "Grow" / "v_Grow_g01_c01.avi").read_bytes()
        assert (b"FFV1" in content) == (codec == "ffv1")
    with pytest.raises(ValueError, match=r"data\.shapes\.look is one of plain, textured, got 'baroque'"):
        replace(TINY, look="baroque")
