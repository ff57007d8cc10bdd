"""The latent cache: exact moments, statistics of the training split, same bytes after any number of kills."""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipelines.data.latent_cache import LatentCache, LatentCacheWriter

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


def begin(folder: Path, clips_per_shard: int = 5, **provenance) -> LatentCacheWriter:
    return LatentCacheWriter(folder, CLIPS, ("A", "B"), PROVENANCE | provenance, clips_per_shard)


def make(folder: Path, clips_per_shard: int = 5) -> LatentCache:
    writer = begin(folder, clips_per_shard)
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


def test_whitened_training_latents_have_mean_0_and_std_1(cache) -> None:
    """The validation clips lie 50 standard deviations away and do not count."""
    latents = cache.latents(cache.split("train"))
    for z in latents.values():
        assert z.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-5
        assert (z.std(dim=(0, 2, 3, 4), correction=0) - 1).abs().max() < 1e-5
    back = cache.unwhiten(latents)
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
        "import sys, pathlib, test_data_latent_cache as t\n"
        "w = t.begin(pathlib.Path(sys.argv[1]))\n"
        "while True:\n"
        "    for k in range(w.num_shards - 1): w.write(k, t.shard_moments(w, k))\n"
    )
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
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
    with pytest.raises(ValueError, match=r"logvar of motion for B/7.avi is not finite"):
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
        with pytest.raises(ValueError, match="expected at least one clip"):
            next(cache.batches(split, 0, 0, 6, 0, world))
