"""The latent cache: exact moments, statistics of the training split, same bytes after any number of kills."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.clip_dataset import epoch_order
from pipelines.data.latent_cache import LatentCache, places_of_step
from pipelines.data.latent_cache_writer import LatentCacheWriter
from pipelines.data.latent_rgb import KINDS, cross_moments, fit, latent_preview, small_frames, times_of
from pipelines.data.prefetch import prefetched
from pipelines.data.video_file import to_uint8

SHAPES = {"keyframe": (6, 1, 4, 4), "motion": (2, 2, 4, 4)}
PROVENANCE = {"vae": "a" * 64, "index": "b" * 64, "preprocessing": {"resolution": 32, "num_frames": 9}}
CLIPS = [
    {"path": f"{'AB'[i % 2]}/{i}.avi", "label": i % 2, "split": "validation" if i % 5 == 4 else "train", "start": i}
    for i in range(23)
]


def moments_of(position: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(position)
    shift = 100.0 if CLIPS[position]["split"] == "validation" else 3.0
    return {
        part: (shift + 2 * torch.randn(1, *shape, generator=generator), torch.randn(1, *shape, generator=generator))
        for part, shape in SHAPES.items()
    }


def shard_moments(writer: LatentCacheWriter, shard: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    each = [moments_of(i) for i in writer.clips_of(shard)]
    return {part: tuple(torch.cat([one[part][k] for one in each]) for k in range(2)) for part in SHAPES}


def begin(
    folder: Path, clips_per_shard: int = 5, storage: str = "moments_fp32", open_loop: bool = False, **provenance
) -> LatentCacheWriter:
    made_from = PROVENANCE | provenance
    return LatentCacheWriter(folder, CLIPS, ("A", "B"), made_from, clips_per_shard, storage, open_loop)


def make(folder: Path, clips_per_shard: int = 5, **options) -> LatentCache:
    writer = begin(folder, clips_per_shard, **options)
    for shard in writer.missing():
        writer.write(shard, shard_moments(writer, shard))
    return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path) -> LatentCache:
    return make(tmp_path / "cache")


def test_moments_come_back_exactly(cache) -> None:
    positions = [22, 0, 7, 7, 4]
    moments = cache.moments(positions)
    for part in SHAPES:
        for k in range(2):
            assert torch.equal(moments[part][k], torch.cat([moments_of(i)[part][k] for i in positions]))
        assert cache.parts[part]["shape"] == list(SHAPES[part])
    assert torch.equal(cache.latents(positions, whiten=False)["motion"], moments["motion"][0])
    assert cache.labels.tolist() == [clip["label"] for clip in CLIPS] and cache.classes == ("A", "B")
    assert cache.clips == CLIPS and len(cache) == 23
    assert cache.split("validation") == [4, 9, 14, 19]


def unwhitened(cache: LatentCache, latents: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def column(part: str, name: str) -> torch.Tensor:
        return torch.tensor(cache.parts[part][name]).reshape(-1, 1, 1, 1)

    return {part: z * column(part, "std") + column(part, "mean") for part, z in latents.items()}


def test_whitened_training_latents_have_mean_0_and_std_1(cache) -> None:
    """The validation clips lie 50 standard deviations away and do not count."""
    latents = cache.latents(cache.split("train"))
    for z in latents.values():
        assert z.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-5
        assert (z.std(dim=(0, 2, 3, 4), correction=0) - 1).abs().max() < 1e-5
    back = unwhitened(cache, latents)
    assert all(torch.allclose(back[p], z, atol=1e-5) for p, z in cache.latents(cache.split("train"), False).items())


@pytest.mark.parametrize("clips_per_shard", [1, 4, 23, 100])
def test_statistics_do_not_depend_on_the_shards(cache, tmp_path, clips_per_shard: int) -> None:
    other = make(tmp_path / "other", clips_per_shard)
    train = torch.cat([moments_of(i)["keyframe"][0] for i in cache.split("train")]).double()
    for name, expected in (("mean", train.mean((0, 2, 3, 4))), ("std", train.std((0, 2, 3, 4), correction=0))):
        for one in (cache, other):
            stored = torch.tensor(one.parts["keyframe"][name], dtype=torch.float64)
            assert torch.allclose(stored, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(other.moments([11])["motion"][0], cache.moments([11])["motion"][0])


def test_interrupted_writing_goes_on_to_the_same_bytes(cache, tmp_path) -> None:
    folder = tmp_path / "again"
    writer = begin(folder)
    for shard in (3, 1):
        writer.write(shard, shard_moments(writer, shard))
    (folder / "shard-00000.safetensors").write_bytes(b"written, not committed")
    (folder / ".shard-00002.safetensors.1.part").write_bytes(b"half")
    damaged = bytearray((folder / "shard-00003.safetensors").read_bytes())
    damaged[-1] ^= 1
    (folder / "shard-00003.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match="no finished latent cache"):
        LatentCache(folder)
    ranks = [begin(folder) for _ in range(2)]
    assert [writer.missing(rank, 2) for rank, writer in enumerate(ranks)] == [[0, 2, 4], [3]]
    for rank in (1, 0):
        for shard in ranks[rank].missing(rank, 2):
            ranks[rank].write(shard, shard_moments(ranks[rank], shard))
    ranks[0].finish()
    assert contents(folder) == contents(cache.folder)  # the left-over part is gone too


def test_killed_process_goes_on_to_the_same_bytes(cache, tmp_path) -> None:
    folder = tmp_path / "killed"
    code = (
        "import sys, pathlib, test_latent_cache as t\n"
        "w = t.begin(pathlib.Path(sys.argv[1]))\n"
        "while True:\n"
        "    for k in range(w.num_shards - 1): w.write(k, t.shard_moments(w, k))\n"
    )
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=os.environ | {"PYTHONPATH": search})
    deadline = time.monotonic() + 60
    while not (folder / "shard-00002.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    writer = begin(folder)
    assert 4 in writer.missing() and len(writer.missing()) < 5
    make(folder)
    assert contents(folder) == contents(cache.folder)


@pytest.mark.parametrize("fault", ["flip", "cut", "remove"])
def test_damaged_shard_is_named_with_the_remedy(cache, fault: str) -> None:
    file = cache.folder / "shard-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    if fault == "remove":
        file.unlink()
    else:
        file.write_bytes(content if fault == "flip" else content[:-8])
    with pytest.raises(ValueError, match=r"shard-00002.safetensors.*cache_latents.py"):
        LatentCache(cache.folder)


def test_damage_is_found_when_a_shard_is_first_read(cache) -> None:
    """Opening compares sizes only; a byte that changed is found before a value of its shard is used."""
    file = cache.folder / "shard-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    opened = LatentCache(cache.folder, verify=False)
    assert torch.equal(opened.latents([0])["motion"], cache.latents([0])["motion"])
    with pytest.raises(ValueError, match=r"shard-00001.safetensors is damaged.*cache_latents.py"):
        opened.latents([5])


def test_a_digit_that_changed_in_the_records_is_found(cache) -> None:
    metadata, record = cache.folder / "metadata.json", cache.folder / "shard-00002.json"
    for file in (metadata, record):
        before = file.read_text()
        place = before.index('"mean"') + before[before.index('"mean"') :].index(".") + 1
        file.write_text(before[:place] + str((int(before[place]) + 1) % 10) + before[place + 1 :])
        if file == metadata:
            with pytest.raises(ValueError, match=r"metadata.json is damaged.*cache_latents.py"):
                LatentCache(cache.folder, verify=False)
        else:
            assert begin(cache.folder).missing() == [2], "the shard is written again"
        file.write_text(before)
    assert not begin(cache.folder).missing()
    assert len(LatentCache(cache.folder, verify=False)) == len(CLIPS)


def test_cache_of_something_else_is_refused_with_the_remedy(cache) -> None:
    cache.check(**PROVENANCE)
    for name, value in (("vae", "c" * 64), ("index", "c" * 64), ("preprocessing", {"resolution": 64, "num_frames": 9})):
        with pytest.raises(ValueError, match=rf"another {name} .*cache_latents.py"):
            cache.check(**PROVENANCE | {name: value})
    with pytest.raises(ValueError, match="other provenance"):
        begin(cache.folder, vae="c" * 64)
    with pytest.raises(ValueError, match="other clips_per_shard"):
        begin(cache.folder, clips_per_shard=6)


def test_not_finite_moment_names_the_clip(tmp_path) -> None:
    writer = begin(tmp_path)
    moments = shard_moments(writer, 1)
    moments["motion"][1][2, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="logvar .*motion .*B/7.avi"):
        writer.write(1, moments)
    assert 1 in writer.missing()


def test_parts_without_frames_and_constant_channels(tmp_path) -> None:
    clips = CLIPS[:3]
    writer = LatentCacheWriter(tmp_path, clips, (), PROVENANCE)
    constant = torch.full((3, 2, 1, 4, 4), 7.0)
    empty = torch.zeros(3, 4, 0, 4, 4)
    writer.write(0, {"keyframe": (constant, constant - 9), "motion": (empty, empty.clone())})
    cache = writer.finish()
    latents = cache.latents([2, 0])
    assert latents["motion"].shape == (2, 4, 0, 4, 4)
    assert torch.equal(latents["keyframe"], torch.zeros(2, 2, 1, 4, 4))


def test_batches_are_pure_functions_of_seed_and_step(cache) -> None:
    def take(first: int, count: int, rank: int = 0, world: int = 1, seed: int = 0) -> list[dict]:
        return list(islice(cache.batches("train", seed, first, 6, rank, world), count))

    whole = take(0, 5)
    assert whole[0]["latents"]["keyframe"].shape == (6, 6, 1, 4, 4)
    assert take(3, 1)[0]["path"] == whole[3]["path"]
    shares = [take(2, 1, rank, 3)[0] for rank in range(3)]
    assert sum((share["path"] for share in shares), []) == whole[2]["path"]
    assert [share["index"] for share in shares] == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(torch.cat([share["label"] for share in shares]), whole[2]["label"])
    paths = sum((batch["path"] for batch in take(0, 19)), [])  # 114 = 6 epochs of 19
    for epoch in range(6):
        assert sorted(paths[19 * epoch : 19 * epoch + 19]) == sorted(c["path"] for c in CLIPS if c["split"] == "train")
    assert take(0, 1, seed=1)[0]["path"] != whole[0]["path"]
    for world, split in ((4, "train"), (1, "test")):
        with pytest.raises(ValueError, match="at least one clip"):
            next(cache.batches(split, 0, 0, 6, 0, world))


def test_items_are_prepared_ahead_in_order_and_by_one_thread() -> None:
    threads, made = set(), []

    def items() -> Iterator[int]:
        for number in range(6):
            threads.add(threading.current_thread().name)
            made.append(number)
            yield number
        raise ValueError("no seventh item")

    iterator = prefetched(items(), ahead=2)
    assert next(iterator) == 0
    deadline = time.monotonic() + 20
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2], "two items beyond the one that is used"
    assert list(islice(iterator, 5)) == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="no seventh"):
        next(iterator)
    assert len(threads) == 1 and threads != {threading.current_thread().name}
    assert not any(thread.name in threads for thread in threading.enumerate())


def test_a_forgotten_iterator_ends_its_thread() -> None:
    iterator = prefetched(iter(range(10**6)))
    assert next(iterator) == 0
    del iterator
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9), step=st.integers(0, 10**6), size=st.integers(1, 40), count=st.integers(1, 30))
def test_places_are_those_of_the_permutations_in_turn(seed: int, step: int, size: int, count: int) -> None:
    indices = np.arange(size)
    expected = []
    for index in indices.tolist():
        epoch, place = divmod(step * size + index, count)
        expected.append(int(epoch_order(seed, epoch, count)[place]))
    assert places_of_step(seed, step, size, indices, count).tolist() == expected


def test_means_in_half_precision_are_near_and_whitened_by_the_same_statistics(cache, tmp_path) -> None:
    half = make(tmp_path / "half", storage="means_fp16")
    assert half.parts == cache.parts
    positions = [22, 0, 7, 7, 4]
    for part, z in cache.latents(positions).items():
        error = (half.latents(positions)[part] - z).abs()
        # 2^-12 relative to what is stored: the distance from the shard's mean in its standard deviations, here up to 6
        spread = max(np.array(cache.parts[part]["std"])) * 60
        assert 0 < error.max() < spread * 2**-11
    with pytest.raises(ValueError, match="holds means only"):
        half.moments([0])
    with pytest.raises(ValueError, match="other storage"):
        begin(tmp_path / "half")


def test_draws_from_the_posterior_have_its_moments_and_are_keyed(tmp_path) -> None:
    cache = make(tmp_path / "open", open_loop=True)
    keys = [(0, step, 0) for step in range(4000)]
    draws = unwhitened(cache, cache.sample([3] * 4000, keys))
    for part, (mean, logvar) in cache.moments([3]).items():
        std = (0.5 * logvar).exp()
        assert ((draws[part].mean(0) - mean[0]) / std[0]).abs().max() < 5 / 4000**0.5
        assert (draws[part].std(0) / std[0] - 1).abs().max() < 4 / 4000**0.5
    again = cache.sample([3, 3], [keys[7], keys[7]])
    assert all(torch.equal(z[0], z[1]) for z in again.values())
    whole = next(cache.batches("train", 0, 5, 6, sample=True))
    shares = [next(cache.batches("train", 0, 5, 6, rank, 2, sample=True)) for rank in range(2)]
    for part, z in whole["latents"].items():
        assert torch.equal(torch.cat([share["latents"][part] for share in shares]), z)
        assert not torch.equal(z, cache.latents([CLIPS.index(c) for c in CLIPS if c["path"] in whole["path"]])[part])


def test_what_may_not_be_sampled_is_refused(cache, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"closed loop.*latte.sample_posterior"):
        cache.batches("train", 0, 0, 6, sample=True)
    half = make(tmp_path / "half", storage="means_fp16", open_loop=True)
    with pytest.raises(ValueError, match=r"means.*moments_fp32"):
        half.batches("train", 0, 0, 6, sample=True)


def test_batches_are_the_latents_of_their_clips(cache) -> None:
    batch = next(cache.batches("train", 3, 11, 6))
    positions = [next(i for i, clip in enumerate(CLIPS) if clip["path"] == path) for path in batch["path"]]
    for part, z in cache.latents(positions).items():
        assert torch.equal(batch["latents"][part], z)
    assert torch.equal(batch["label"], cache.labels[positions])
    assert cache.latents([])["motion"].shape == (0, *SHAPES["motion"])


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(cache, tmp_path) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of writing."""
    writer = begin(tmp_path / "full")
    writer.write(0, shard_moments(writer, 0))
    before = contents(tmp_path / "full")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"shard-00001.safetensors .*File too large"):
            writer.write(1, shard_moments(writer, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path / "full") == before
    for shard in writer.missing():
        writer.write(shard, shard_moments(writer, shard))
    assert contents(writer.finish().folder) == contents(cache.folder)


def test_space_is_compared_with_what_is_still_to_be_written(tmp_path) -> None:
    writer = begin(tmp_path / "new")
    free = shutil.disk_usage(tmp_path).free
    values = free // (8 * len(CLIPS))
    writer.require_space({"keyframe": (values // 4, 2, 1, 1)})
    with pytest.raises(ValueError, match=r"23 clips .* GB .*new.* GB are free.*means_fp16"):
        writer.require_space({"keyframe": (2 * values, 1, 1, 1)})
    writer.write(0, shard_moments(writer, 0))
    with pytest.raises(ValueError, match="18 clips"):
        writer.require_space({"keyframe": (2 * values, 1, 1, 1)})


def test_a_shard_of_another_plan_is_written_again(cache, tmp_path) -> None:
    """Two processes may begin at the same moment, each unaware of the other's plan."""
    writer, other = begin(tmp_path / "one"), begin(tmp_path / "two", vae="c" * 64)
    other.write(2, shard_moments(other, 2))
    for path in other.folder.glob("shard-*"):
        shutil.copy(path, writer.folder)
    assert writer.missing() == [0, 1, 2, 3, 4]


@settings(deadline=None, max_examples=40)
@given(frames=st.lists(st.integers(0, 5), min_size=1, max_size=3), num_times=st.integers(1, 5))
def test_frames_of_the_probe_exist(frames: list[int], num_times: int) -> None:
    for count in frames:
        for kind, chosen in times_of(count, num_times).items():
            assert len(chosen) == (1 if kind == "first" else num_times - 1) and max(chosen) < count


@pytest.mark.parametrize("frames", [{"video": 5}, {"k": 1, "m": 4, "r": 4}, {"k": 1, "m": 5}, {"k": 1}])
def test_the_probe_finds_a_linear_map(frames: dict[str, int]) -> None:
    """Where RGB is linear in the latents, previews equal it to rounding; with any offset and scale of the latents."""
    generator = torch.Generator().manual_seed(0)
    times, channels = max(5 if len(frames) > 1 or "video" in frames else 1, max(frames.values())), 3
    z = {p: 40 + 7 * torch.randn(6, channels, t, 4, 4, generator=generator) for p, t in frames.items()}
    maps = {kind: {p: 0.01 * torch.randn(3, channels, generator=generator) for p in frames} for kind in KINDS}
    rgb = torch.zeros(6, 3, times, 4, 4)
    for time_index in range(times):
        kind = "first" if time_index == 0 else "rest"
        for part, latent in z.items():
            chosen = times_of(latent.shape[2], times).get(kind)
            if chosen:
                frame = chosen[0 if kind == "first" else time_index - 1]
                rgb[:, :, time_index] += torch.einsum("oc,bchw->bohw", maps[kind][part], latent[:, :, frame] - 40)
    parts = {p: {"shape": list(x.shape[1:]), "mean": [40.0] * channels, "std": [7.0] * channels} for p, x in z.items()}
    for part, probe in fit(cross_moments(z, rgb), parts, times).items():
        parts[part]["rgb"] = probe
    parts = json.loads(json.dumps(parts))
    assert (latent_preview(z, parts).int() - to_uint8(rgb).int()).abs().max() <= 1
    halves = [cross_moments({p: x[i : i + 3] for p, x in z.items()}, rgb[i : i + 3]) for i in (0, 3)]
    added = {kind: halves[0][kind] + halves[1][kind] for kind in KINDS}
    torch.testing.assert_close(added, cross_moments(z, rgb))
    with pytest.raises(ValueError, match="probe for"):
        latent_preview(z, {part: {} for part in z})


def test_small_frames_are_the_first_frame_and_means_of_four() -> None:
    video = torch.rand(2, 3, 9, 8, 16)
    small = small_frames(video, (2, 4))
    assert small.shape == (2, 3, 3, 2, 4)
    torch.testing.assert_close(small[:, :, 0, 1, 3], video[:, :, 0, 4:, 12:].mean((-1, -2)))
    torch.testing.assert_close(small[:, :, 2, 0, 0], video[:, :, 5:9, :4, :4].mean((-1, -2, -3)))
