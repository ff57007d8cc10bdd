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
    ROOM,
    SHAPES,
    WALLS,
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
    sizes = PLAIN.sizes if motion in ROOM else TEXTURED.sizes
    found = states(Places.of([scene], [motion]), torch.arange(num_frames, dtype=torch.float32), sizes)
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
    assert set(classes) == set(PLAIN.motions)
    assert set(splits) == {path for path in contents(tiny_set) if path.endswith(".avi")}
    sides = {split: {group_of(path) for path in splits if splits[path] == split} for split in ("train", "validation")}
    assert not sides["train"] & sides["validation"]
    assert sum(split == "train" for split in splits.values()) == 8 * 9 and len(splits) == 8 * 11
    assert read_video(tiny_set / "Pulse" / "v_Pulse_g01_c01.avi").shape == (5, 32, 32, 3)


def test_same_seed_same_bytes_and_another_seed_others(tiny_set, tmp_path) -> None:
    write_moving_shapes(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(tiny_set)
    write_moving_shapes(tmp_path / "other", replace(TINY, seed=1, train_per_class=1))
    name = "Pulse/v_Pulse_g01_c01.avi"
    assert (tmp_path / "other" / name).read_bytes() != (tiny_set / name).read_bytes()


def test_killed_generation_is_redone_and_finished_one_is_kept(tiny_set, tmp_path) -> None:
    folder = tmp_path / "moving_shapes"
    half = tmp_path / "moving_shapes.part" / "Pulse"
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


@pytest.mark.parametrize("look", LOOKS)
def test_first_frame_is_the_same_picture_for_every_class(look: str) -> None:
    """Given scene and colours, which are drawn without looking at the class."""
    scene = draw_scene(LOOKS[look], np.random.default_rng(3))
    paint = plain_paint(1, "star", 32) if look == "plain" else textured_paint(np.random.default_rng(1), 32)
    pictures = [render(scene, motion, 1, paint)[0] for motion in LOOKS[look].motions]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("frame", [0, 5, 16, 32])
def test_no_frame_tells_the_class(frame: int, look: str) -> None:
    """The state of every class is uniform at every frame, wherever the clip is cut (Kolmogorov-Smirnov distance)."""
    random, own = np.random.default_rng(0), LOOKS[look]
    count = 4000
    low, high = own.places
    for motion in own.motions:
        places = Places.of([draw_scene(own, random) for _ in range(count)], [motion] * count)
        state = states(places, torch.tensor([float(frame)]), own.sizes)
        for name, start, period in (
            ("x", low, high - low),
            ("y", low, high - low),
            ("angle", 0, 2 * np.pi),
            ("size_phase", 0, 1),
        ):
            values = (np.sort(state[name][:, 0].numpy()) - start) / period
            distance = np.abs(values - (np.arange(count) + 0.5) / count).max()
            assert distance < 1.95 / np.sqrt(count), (motion, name)  # exceeded by chance once in 1000
        square = torch.stack([state["x"][:, 0], state["y"][:, 0]])
        assert abs(torch.corrcoef(square)[0, 1]) < 0.06, motion  # diagonals no more than others


def in_room(motion: str, num_frames: int = 17, **changes) -> dict[str, np.ndarray]:
    """The state of a scene of the plain look."""
    scene = replace(draw_scene(PLAIN, np.random.default_rng(4)), x=0.45, y=0.5, direction=1)
    return state_of(replace(scene, **changes), motion, num_frames)


@pytest.mark.parametrize(
    ("motion", "along", "slope"),
    [("MoveHorizontally", "x", 0), ("MoveVertically", "y", 0), ("MoveRising", "x", -1), ("MoveFalling", "x", 1)],
)
def test_paths_in_the_room_are_straight_and_are_run_to_and_fro(motion: str, along: str, slope: int) -> None:
    state = in_room(motion, 65, speed=1.75 / 64)
    steps = {name: np.diff(state[name]) * 64 for name in ("x", "y")}
    own, other = steps[along], steps["y" if along == "x" else "x"]
    assert np.allclose(other, slope * own, atol=1e-3)
    assert own[0] > 0 and (own < 0).sum() > 10, "it comes back"
    for name in ("x", "y"):
        assert WALLS[0] - 1e-6 <= state[name].min() and state[name].max() <= WALLS[1] + 1e-6
    length = np.median(np.hypot(own, other))  # pixels per frame, slower on the shorter path of a diagonal
    assert 1 < length < 1.75 if slope else length == pytest.approx(1.75, abs=1e-3)
    back = in_room(motion, 2, speed=1.75 / 64, direction=-1)
    assert np.diff(back[along])[0] == pytest.approx(-own[0] / 64, abs=1e-6), "the other way first"


def test_a_wheel_rolls_without_slipping_and_a_pulse_comes_back() -> None:
    rolling = in_room("Roll", 17, size_phase=0.5)
    radius = float(PLAIN.sizes.radius(torch.tensor(0.5)))
    turned = np.diff(np.unwrap(rolling["angle"]))
    assert np.allclose(turned, -np.diff(rolling["x"]) / radius, atol=1e-5), "clockwise to the right"
    pulse = in_room("Pulse", 65, size_phase=0.5)["size_phase"]
    assert 0 <= pulse.min() < 0.06 and 0.94 < pulse.max() <= 1
    assert min((np.diff(pulse) > 0).sum(), (np.diff(pulse) < 0).sum()) > 10


def test_no_shape_of_the_plain_look_is_cut_off() -> None:
    random = np.random.default_rng(0)
    for number in range(24):
        scene = draw_scene(PLAIN, random)
        seen = shares(Places.of([scene], [PLAIN.motions[number % 8]]), torch.arange(33.0), 64, PLAIN.sizes)[0]
        edges = (seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1])
        assert max(edge.max() for edge in edges) < 0.01, scene


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
        paint = plain_paint(background, line["shape"], 32)
        assert np.array_equal(read_video(folder / path).numpy(), render(Scene(**line), motion, 5, paint)), path


def test_colours_are_shares_of_body_second_and_background() -> None:
    """What is drawn is linear in its colours, and nothing is outside 0 and 1."""
    scene, paint = draw_scene(PLAIN, np.random.default_rng(5)), plain_paint(1, "star", 64)
    seen = shares(Places.of([scene], ["Pulse"]), torch.arange(33.0), 64, PLAIN.sizes)[0].numpy()
    assert seen.min() >= 0 and seen.sum(axis=-1).max() <= 1 + 1e-6
    expected = seen @ np.stack([paint.body, paint.second]) + (1 - seen.sum(axis=-1))[..., None] * paint.background
    assert np.abs(render(scene, "Pulse", 33, paint) - 255 * expected).max() <= 0.51


def test_the_plain_look_has_few_colours_and_the_textured_one_many(tmp_path) -> None:
    assert (len(BACKGROUNDS), tuple(BODIES)) == (4, PLAIN.shapes)
    for look, codec in (("plain", "ffv1"), ("textured", "mpeg4")):
        write_moving_shapes(tmp_path / look, replace(TINY, look=look, train_per_class=1, validation_per_class=1))
        content = (tmp_path / look / LOOKS[look].motions[6] / f"v_{LOOKS[look].motions[6]}_g01_c01.avi").read_bytes()
        assert (b"FFV1" in content) == (codec == "ffv1")
    with pytest.raises(ValueError, match=r"data\.shapes\.look is one of plain, textured, got 'baroque'"):
        replace(TINY, look="baroque")
