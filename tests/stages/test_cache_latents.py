"""The stage cache_latents: the same bytes however often it is killed and whoever goes on; crops, mirror images."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import cache_kills
from tiny_vae import clip, tiny_vae

from pipelines import cache_latents, prepare_data
from pipelines.data.latent_cache import LatentCache
from pipelines.data.latent_rgb import latent_preview, small_frames
from pipelines.data.video_file import to_float
from pipelines.inputs.cache import fixed_clips, open_cache
from pipelines.inputs.index import open_index
from pipelines.run.folder import StageFolder
from vae.registry import load_autoencoder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """Arguments of a run, and the digests of its cache when one process makes it without a pause."""
    arguments = cache_kills.prepare(tmp_path_factory.mktemp("runs"))
    cache_latents.run(cache_kills.load(arguments))
    return arguments, cache_kills.digests(cache_kills.latents(arguments))


def test_killed_jobs_go_on_in_another_number_to_the_same_bytes(nano) -> None:
    arguments, expected = nano
    assert len(expected) == 2 * 20 + 2
    shutil.rmtree(cache_kills.latents(arguments).parent)
    result = cache_kills.trial(arguments, (2, 1, 3, 2), (0.0, 0.05, 0.02))
    assert all(kill["killed"] for kill in result["kills"]), f"killed too late to test anything: {result}"
    assert result["exit_codes"] == [0, 0]
    assert cache_kills.digests(cache_kills.latents(arguments)) == expected
    assert json.loads((cache_kills.latents(arguments).parent / "done.json").read_text())["outputs"]["clips"] == 40


def test_ranks_of_one_job_write_the_same_bytes(nano) -> None:
    arguments, expected = nano
    shutil.rmtree(cache_kills.latents(arguments).parent)
    processes = cache_kills.start(arguments, count=1, ranks=2)
    for process in processes:
        process.join(cache_kills.LONGEST_WAIT_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
    assert cache_kills.digests(cache_kills.latents(arguments)) == expected


def test_a_job_says_what_is_missing_and_a_call_without_jobs_finishes(nano, capsys) -> None:
    arguments, expected = nano
    shutil.rmtree(cache_kills.latents(arguments).parent)
    cache_latents.run(cache_kills.load([*arguments, "cache.num_jobs=3", "cache.job=1"]))
    assert "13 shards of others are missing, of jobs [0, 2]" in capsys.readouterr().err
    folder = cache_kills.latents(arguments)
    assert sorted(path.name for path in folder.glob("shard-*.json")) == [f"shard-{k:05d}.json" for k in range(1, 20, 3)]
    cache_latents.run(cache_kills.load(arguments))
    assert cache_kills.digests(folder) == expected
    (folder / "shard-00004.safetensors").write_bytes(b"damaged")
    cache_latents.run(cache_kills.load([*arguments, "cache.num_jobs=3", "cache.job=1"]))  # the last one there is
    assert cache_kills.digests(folder) == expected


def test_jobs_share_the_folder_and_the_last_one_has_it_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.run.folder.SECONDS_TO_SHARE", 0.2)
    settings = {"cache": {"job": 0}}
    first, second, alone = (StageFolder(str(tmp_path), "run", "cache_latents") for _ in range(3))
    with first.open(settings, shared=True), second.open(settings, shared=True):
        with pytest.raises(ValueError, match="in use by another process"):
            alone.open(settings)
        assert not first.become_only()
        assert second.become_only(), "the first gave up its share when it asked"
        with pytest.raises(ValueError, match="in use by another process"):
            alone.open(settings, shared=True)
    alone.open(settings).close()


def test_rounding_depends_on_no_number_of_threads() -> None:
    vae, videos = tiny_vae("default").eval(), clip(3, 9)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        encoded = list(cache_latents.encode_clips(vae, iter(videos.split(1)), "fp32"))
        assert torch.get_num_threads() == threads
        found.append(cache_latents.stack(encoded))
    torch.set_num_threads(1)
    for moments, rgb in found[1:]:
        assert torch.equal(rgb, found[0][1])
        for part, pair in moments.items():
            assert all(torch.equal(a, b) for a, b in zip(pair, found[0][0][part], strict=True))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a run on three wide files; a plain, thus open-loop, autoencoder."""
    from pipelines.data.video_file import write_video

    root = tmp_path_factory.mktemp("wide")
    for number in range(3):
        (root / "videos" / "AB"[number % 2]).mkdir(parents=True, exist_ok=True)
        frames = torch.nn.functional.interpolate(clip(1, 13, 32, 48, seed=number)[0], size=(32, 48))
        video = (frames.permute(1, 2, 3, 0) + 1).mul(127.5).byte()
        write_video(root / "videos" / "AB"[number % 2] / f"{number}.mp4", video, 10)
    tiny_vae("plain").save_pretrained(root / "vae")
    (root / "wide.yaml").write_text("{}")
    options = ["resolution=32", "num_frames=9", "validation_fraction=0.34", "probe_workers=1", "flip=true"]
    arguments = [str(root / "wide.yaml"), f"run.root={root}", f"cache.vae={root / 'vae'}", "run.device=cpu"]
    arguments += [f"data.root={root / 'videos'}", *(f"data.{option}" for option in options)]
    arguments += ["cache.clips_per_video=2", "cache.crops_per_clip=2", "cache.clips_per_shard=5"]
    prepare_data.run(cache_kills.load(arguments))
    cache_latents.run(cache_kills.load(arguments))
    return arguments


def test_crops_and_mirror_images_are_clips_of_their_own(wide) -> None:
    config = cache_kills.load(wide)
    index, vae = open_index(config), load_autoencoder(config.cache.vae)
    cache = open_cache(config, index)
    train, held_out = cache.split("train"), cache.split("validation")
    assert len(train) == len(index.split("train")) * 2 * 2 * 2 and len(held_out) == len(index.split("validation")) * 2
    first = [cache.clips[i] for i in train[:8]]
    assert [entry["mirrored"] for entry in first] == [0, 1] * 4
    assert [entry["place"] for entry in first] == [0.25, 0.25, 0.75, 0.75] * 2
    assert len({entry["start"] for entry in first}) == 2 and len({entry["path"] for entry in first}) == 1
    assert {(cache.clips[i]["place"], cache.clips[i]["mirrored"]) for i in held_out} == {(0.5, 0)}
    clips = fixed_clips(config, index, "train")
    video = torch.stack([clips[i]["video"] for i in range(8)])
    mirrored = video[0::2].flip(-1)
    assert torch.equal(video[1::2], mirrored) and not torch.equal(video[0], video[2])
    encoded = vae.encode(mirrored[:1]).latents["video"]
    stored = cache.latents(train[:2], whiten=False)["video"]
    torch.testing.assert_close(stored[1:], encoded, atol=1e-5, rtol=1e-5)
    assert (stored[1] - stored[0].flip(-1)).abs().max() > 0.01, (
        "a mirrored latent is not the latent of the mirror image"
    )


def test_half_precision_means_take_a_quarter_and_decode_to_the_same_video(wide) -> None:
    config = cache_kills.load([*wide, "run.name=half", "cache.storage=means_fp16"])
    prepare_data.run(config)
    cache_latents.run(config)
    index, vae = open_index(config), load_autoencoder(config.cache.vae)
    half = open_cache(config, index)
    full = open_cache(cache_kills.load(wide), index)
    assert half.parts == full.parts, "statistics and probe are those of the means before they were rounded"
    sizes = [sum(path.stat().st_size for path in cache.folder.glob("*.safetensors")) for cache in (half, full)]
    assert sizes[0] < 0.4 * sizes[1]  # 0.25, and at this size the sums for the probe
    clips = fixed_clips(config, index, "train")
    video = torch.stack([clips[i]["video"] for i in range(4)])
    decoded = [vae.decode(cache.latents(range(4), whiten=False)).clamp(-1, 1) for cache in (half, full)]
    psnr = [-10 * ((x - video) / 2).square().mean().log10() for x in decoded]
    assert abs(psnr[0] - psnr[1]) < 0.02
    assert -10 * ((decoded[0] - decoded[1]) / 2).square().mean().log10() > 60
    with pytest.raises(ValueError, match="moments_fp32"):
        half.moments([0])
    with pytest.raises(ValueError, match="another preprocessing"):
        open_cache(replace(config, cache=replace(config.cache, storage="moments_fp32")), index)


def test_previews_follow_the_clips(wide) -> None:
    """Random weights suffice for clips that the probe was fitted to: a picture resembles its own clip most."""
    config = cache_kills.load(wide)
    index = open_index(config)
    cache = LatentCache(cache_kills.latents(wide))
    clips = fixed_clips(config, index, "train")
    chosen = [0, 8]  # of two files
    pictures = latent_preview(cache.latents(chosen, whiten=False), cache.parts)
    truth = small_frames(torch.stack([clips[i]["video"] for i in chosen]), (4, 4))
    assert pictures.shape == (2, 3, 4, 4, 3) and pictures.dtype == torch.uint8
    errors = [[float((to_float(a) - b).square().mean()) for b in truth] for a in pictures]
    assert errors[0][0] < 0.6 * errors[0][1] and errors[1][1] < 0.6 * errors[1][0], errors


def test_a_cache_that_does_not_fit_on_the_disk_is_refused_before_it_starts(nano) -> None:
    arguments, _ = nano
    config = cache_kills.load([*arguments, "run.name=large", "data.resolution=262144"])  # 11 TB
    prepare_data.run(config)
    with pytest.raises(ValueError, match=r"40 clips.* GB .*latents.* GB are free"):
        cache_latents.run(config)
    assert not list((Path(config.run.root) / "large" / "cache_latents").rglob("shard-*"))


def test_options_that_make_no_sense_are_named(nano) -> None:
    arguments, _ = nano
    for option, message in (
        ("cache.job=2", "cache.job is 2"),
        ("cache.crops_per_clip=0", "cache.crops_per_clip is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            cache_kills.load([*arguments, option])
