"""Clips: pure functions of (seed, step, index), the same pixels with and without memory, exact frames and crops."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.clip_dataset import (
    FixedClips,
    TrainingClips,
    batches,
    collate,
    crop,
    epoch_order,
    preprocessing,
    resize_short_side,
    resized_shape,
)
from pipelines.data.clip_index import ClipIndex, build_index
from pipelines.data.data_config import DataConfig
from pipelines.data.video_file import read_video, to_float

OPTIONS = {"resolution": 16, "num_frames": 5, "frame_stride": 2, "validation_fraction": 0.0, "probe_workers": 1}
SHAPES = [(20, 24, 40), (9, 40, 24), (14, 16, 16), (11, 32, 32), (30, 24, 24)]  # frames, height, width


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ClipIndex:
    from pipelines.data.video_file import write_video

    root = tmp_path_factory.mktemp("clips")
    for number, (num_frames, height, width) in enumerate(SHAPES):
        folder = root / "AB"[number % 2]
        folder.mkdir(exist_ok=True)
        coarse = torch.from_numpy(np.random.default_rng(number).integers(0, 256, (num_frames, 3, 3, 3))).float()
        video = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255).byte()
        write_video(folder / f"{number}.avi", video.permute(0, 2, 3, 1), 25, "mpeg4")
    return build_index(DataConfig(root=str(root), **OPTIONS), 0)


def config(**options) -> DataConfig:
    return DataConfig(**{"root": "x", **OPTIONS, **options})


def training(index: ClipIndex, seed: int = 0, **options) -> TrainingClips:
    return TrainingClips(index, config(**options), "train", seed)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name] for name in a
    )


def test_clip_has_shape_range_and_label(index) -> None:
    clip = training(index)[(0, 0, 4)]
    assert clip["video"].shape == (3, 5, 16, 16) and clip["video"].dtype == torch.float32
    assert clip["video"].min() >= -1 and clip["video"].max() <= 1
    assert index.classes[clip["label"]] == clip["path"].split("/")[0]


def test_clips_are_pure_functions_of_seed_step_and_index(index) -> None:
    keys = [(step, i, 4) for step in (0, 3, 7) for i in range(4)]
    first = training(index)
    clips = {key: first[key] for key in keys}
    again = training(index)
    assert all(same(again[key], clips[key]) for key in reversed(keys))
    other = training(index, seed=1)
    assert not all(same(other[key], clips[key]) for key in keys)


@pytest.mark.parametrize("options", [{}, {"frame_stride": 1}, {"resolution": 24}])
def test_memory_does_not_change_a_pixel(index, options) -> None:
    keeps, forgets = training(index, **options), training(index, memory_cache_gb=0.0, **options)
    for step in range(5):
        assert same(keeps[(step, 1, 2)], forgets[(step, 1, 2)])
    assert keeps.files.kept and not forgets.files.kept
    fixed = [FixedClips(index, config(memory_cache_gb=gb, **options), "train", 2) for gb in (0.0, 1.0)]
    assert all(same(a, b) for a, b in zip(*fixed, strict=True))


def test_memory_stays_within_its_limit(index) -> None:
    clips = training(index)
    limit = clips.files.num_bytes(index.entries[0]) + clips.files.num_bytes(index.entries[2])
    limited = training(index, memory_cache_gb=limit / 2**30)
    for i in range(40):
        limited[(i, 0, 1)]
    kept = sum(video.numel() for video in limited.files.kept.values())
    assert 0 < kept <= limit and limited.files.free_bytes == limit - kept


def test_every_epoch_visits_each_file_once(index) -> None:
    clips, count = training(index), len(SHAPES)
    paths = [clips[divmod(i, 2) + (2,)]["path"] for i in range(4 * count)]
    epochs = [paths[i : i + count] for i in range(0, 4 * count, count)]
    assert all(sorted(epoch) == sorted(entry.path for entry in index.entries) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6), count=st.integers(1, 50))
def test_epoch_order_is_a_permutation(seed: int, epoch: int, count: int) -> None:
    order = epoch_order(seed, epoch, count)
    assert sorted(order) == list(range(count)) and np.array_equal(order, epoch_order(seed, epoch, count))


def test_training_clips_are_cut_from_the_file(index) -> None:
    """Every clip equals some window of the resized file: right frames, right stride, one crop for all frames."""
    clips = training(index)
    for step in range(8):
        clip = clips[(step, 0, 1)]
        entry = next(entry for entry in index.entries if entry.path == clip["path"])
        whole = to_float(resize_short_side(read_video(index.root / entry.path), 16))  # (3, t, h, w)
        _, num_frames, height, width = whole.shape
        windows = (
            whole[:, start : start + 9 : 2, top : top + 16, left : left + 16]
            for start in range(num_frames - 8)
            for top in range(height - 15)
            for left in range(width - 15)
        )
        assert any(torch.equal(window, clip["video"]) for window in windows)


def test_starts_and_crops_reach_every_place(index) -> None:
    only_wide = ClipIndex(index.root, index.classes, index.entries[:1], ())
    clips = training(only_wide)
    videos = {clips[(step, 0, 1)]["video"].numpy().tobytes() for step in range(60)}
    assert len(videos) > 30  # 12 starts x 12 crops


def test_flip_mirrors_about_half_of_the_clips_and_nothing_else(index) -> None:
    plain, flipping = training(index), training(index, flip=True)
    flipped = 0
    for step in range(40):
        a, b = plain[(step, 0, 1)]["video"], flipping[(step, 0, 1)]["video"]
        if not torch.equal(a, b):
            assert torch.equal(a.flip(dims=[3]), b)
            flipped += 1
    assert 10 <= flipped <= 30


def test_fixed_clips_are_centred_and_evenly_spaced(index) -> None:
    one, three = FixedClips(index, config(), "train"), FixedClips(index, config(), "train", 3)
    assert len(one) == 5 and len(three) == 15
    for i, entry in enumerate(index.entries):
        last = entry.num_frames - 9
        assert one[i]["start"] == int(last / 2)
        starts = [three.describe(3 * i + k)["start"] for k in range(3)]
        assert starts == [int(last * f) for f in (1 / 6, 1 / 2, 5 / 6)] and one[i]["path"] == three[3 * i]["path"]
        frames = read_video(index.root / entry.path, range(one[i]["start"], one[i]["start"] + 9, 2))
        frames = resize_short_side(frames, 16)
        top, left = (frames.shape[1] - 16) // 2, (frames.shape[2] - 16) // 2
        centre = frames[:, top : top + 16, left : left + 16]
        difference = (to_float(centre) - one[i]["video"]).abs().max()
        assert difference == 0 or (frames.shape[1] - 16) % 2 or (frames.shape[2] - 16) % 2
    assert len(list(one)) == 5  # it ends


def test_batches_of_ranks_and_steps_make_up_the_global_batch(index) -> None:
    whole = next(batches(training(index), 3, 4))
    assert whole["video"].shape == (4, 3, 5, 16, 16) and whole["label"].dtype == torch.int64
    shares = [next(batches(training(index), 3, 4, rank, world=2)) for rank in range(2)]
    assert torch.equal(torch.cat([share["video"] for share in shares]), whole["video"])
    assert shares[1]["index"] == [2, 3] and shares[0]["path"] + shares[1]["path"] == whole["path"]
    later = list(islice(batches(training(index), 0, 4), 4))[3]  # not resumed, but reached
    assert same(later, whole)
    with pytest.raises(ValueError, match="global_batch_size 4"):
        next(batches(training(index), 0, 4, 0, world=3))


@pytest.mark.parametrize("memory_cache_gb", [0.0, 1.0])
def test_workers_do_not_change_the_batches(index, memory_cache_gb: float) -> None:
    clips = [training(index, memory_cache_gb=memory_cache_gb) for _ in range(2)]
    alone, workers = (list(islice(batches(c, 0, 4, num_workers=n), 3)) for c, n in zip(clips, (0, 2), strict=True))
    assert all(same(a, b) for a, b in zip(alone, workers, strict=True))


def test_file_that_fails_later_stops_with_its_path(tmp_path, make_file) -> None:
    file = make_file(tmp_path / "a.avi", num_frames=20, height=16, width=64)
    index = build_index(DataConfig(root=str(tmp_path), **OPTIONS), 0)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="a.avi"):
        training(index)[(0, 0, 1)]
    file.unlink()
    with pytest.raises(ValueError, match="a.avi"):
        next(batches(training(index), 0, 2, num_workers=1))


def test_empty_split_is_refused(index) -> None:
    with pytest.raises(ValueError, match="validation split"):
        FixedClips(index, config(), "validation")
    with pytest.raises(ValueError, match="'test'"):
        TrainingClips(index, config(), "test", 0)


def test_resize_is_antialiased_and_keeps_constants() -> None:
    checkers = (torch.arange(64)[:, None] + torch.arange(64)[None, :]) % 2 * 255
    checkers = checkers.byte()[None, :, :, None].expand(2, 64, 64, 3)
    small = resize_short_side(checkers, 16)
    assert small.shape == (2, 16, 16, 3) and (small.int() - 127).abs().max() < 12  # grey, not a moire
    flat = torch.full((1, 48, 64, 3), 77, dtype=torch.uint8)
    assert torch.equal(resize_short_side(flat, 24), torch.full((1, 24, 32, 3), 77, dtype=torch.uint8))
    assert torch.equal(resize_short_side(small, 16), small)


@settings(deadline=None, max_examples=100)
@given(height=st.integers(1, 400), width=st.integers(1, 400), resolution=st.integers(1, 64))
def test_resized_short_side(height: int, width: int, resolution: int) -> None:
    shape = resized_shape(height, width, resolution)
    assert min(shape) == resolution
    assert abs(shape[0] * width - shape[1] * height) <= max(height, width)  # same aspect but for rounding


@settings(deadline=None, max_examples=100)
@given(extra=st.integers(0, 9), place=st.floats(0, 1, exclude_max=True))
def test_crop_stays_inside(extra: int, place: float) -> None:
    frames = torch.arange((4 + extra) ** 2).reshape(1, 4 + extra, 4 + extra, 1)
    assert crop(frames, 4, place, place).shape == (1, 4, 4, 1)


def test_collate_keeps_everything_else_as_lists(index) -> None:
    batch = collate([FixedClips(index, config(), "train")[i] for i in range(2)])
    assert batch["video"].shape[0] == 2 and batch["start"] == [5, 2] or isinstance(batch["start"], list)
    assert batch["label"].tolist() == [index.entries[i].label for i in range(2)]


def test_preprocessing_names_what_changes_the_pixels() -> None:
    base = preprocessing(config())
    assert preprocessing(config(memory_cache_gb=0.0)) == base
    for options in ({"resolution": 24}, {"num_frames": 9}, {"frame_stride": 1}):
        assert preprocessing(config(**options)) != base


def test_real_clips_at_64_pixels(real_clips) -> None:
    options = {"resolution": 64, "num_frames": 17, "frame_stride": 1}
    root = Path(real_clips / "actions64")
    data = DataConfig(root=str(root), splits=str(real_clips / "actions64_splits"), **options)
    index = build_index(data, 0)
    assert len(index.split("train")) == 24 and len(index.split("validation")) == 8 and not index.rejected
    assert FixedClips(index, data, "validation")[0]["video"].shape == (3, 17, 64, 64)
