"""Speed of the latent cache: encoding beside the bare autoencoder, reading, and waiting for it (`benchmark.py cache`).

Everything runs in this process, on video files and latents made for it. The result, runs/<run>/cache.json, is written
after every row; the same command goes on with what is missing.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from latte.config import build_records
from latte.latte import Latte
from latte.trainer import LatteTask
from pipelines.cache_latents import write_shards
from pipelines.data.clip_dataset import FixedClips
from pipelines.data.clip_index import ClipEntry, ClipIndex
from pipelines.data.data_config import DataConfig
from pipelines.data.latent_cache import LatentCache
from pipelines.data.latent_cache_writer import LatentCacheWriter
from pipelines.data.video_file import to_uint8, write_video
from pipelines.inputs.precision import autocast
from pipelines.run.folder import StageFolder, git_commit, write_json
from pipelines.run.random_keys import Draws
from pipelines.run.ranks import connect
from pipelines.run.stage import select
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from pipelines.studies.benchmarks.options import Benchmark
from pipelines.studies.benchmarks.speed_tables import aligned
from pipelines.studies.benchmarks.vae_speed import machine
from vae.registry import build_autoencoder

KIND = "cache"
BARE_BATCHES = (1, 4)  # clips at once for the bare autoencoder, of which the faster counts
STORAGES = ("moments_fp32", "means_fp16")
READ_BATCH = 32
COLUMNS = {
    "name": "name",
    "clips/s": "clips_per_second",
    "bare clips/s": "bare_clips_per_second",
    "ratio": "ratio",
    "GB/s": "gb_per_second",
    "CPU": "cpu_share",
    "step s": "step_seconds",
    "waiting": "waiting_share",
    "without thread": "waiting_share_without_thread",
}


def run(config: Benchmark) -> None:
    """Measure what is missing, write runs/<run>/cache.json and print its table."""
    device = connect(config.run.device).device
    settings = select(config, ("benchmark", "vae", "cache", "latte")) | {"machine": machine(device.type)}
    folder = StageFolder(config.run.root, config.run.name, KIND)
    measurements: dict[str, Callable[[], dict[str, Any]]] = {
        "encode": lambda: encode_row(config, folder.path, device),
        **{f"read {storage}": lambda storage=storage: read_row(config, folder.path, storage) for storage in STORAGES},
        "train": lambda: train_row(config, folder.path, device),
    }
    with folder.open(settings):
        for name, measure in measurements.items():
            if name not in {line["name"] for line in folder.read_log()}:
                print(f"measuring: {name}", file=sys.stderr, flush=True)
                folder.log({"name": name, **measure(), "git_commit": git_commit()})
            rows = [{key: value for key, value in line.items() if key != "git_commit"} for line in folder.read_log()]
            commits = sorted({line["git_commit"] for line in folder.read_log()})
            content = {"rows": rows, "machine": machine(device.type), "git_commits": commits}
            write_json(folder.path.with_suffix(".json"), content)
        for name in ("clips", "encoded", *STORAGES):
            shutil.rmtree(folder.path / name, ignore_errors=True)
        print("\n".join(aligned(COLUMNS, rows)))
        folder.finish({"rows": [row["name"] for row in rows]})


def encode_row(config: Benchmark, folder: Path, device: torch.device) -> dict[str, Any]:
    """Clips per second of the stage, from video files to committed shards, and of the autoencoder alone."""
    torch.manual_seed(0)
    vae = build_autoencoder(config.vae).eval().to(device)
    size, count = config.benchmark.resolution, config.benchmark.cache_clips
    clips = video_files(folder / "clips", count, config.benchmark.num_frames, size)
    videos = torch.stack([clips[i]["video"] for i in range(count)])

    def stage() -> None:
        shutil.rmtree(folder / "encoded", ignore_errors=True)
        described = [{**clips.describe(i), "split": "train"} for i in range(count)]
        writer = LatentCacheWriter(folder / "encoded", described, (), {}, max(count // 2, 1), config.cache.storage)
        write_shards(writer, writer.missing(), vae, [clips], config)
        writer.finish()

    @torch.inference_mode()
    def bare(batch_size: int) -> None:
        with autocast(device, config.cache.precision):
            for batch in videos.split(batch_size):
                for latent in vae.encode(vae.pad_clip(batch.to(device))).latents.values():
                    latent.float().cpu()

    ways: dict[str, Callable[[], None]] = {"stage": stage}
    ways |= {f"bare {n}": lambda n=n: bare(n) for n in BARE_BATCHES}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.benchmark.rounds):  # in turns, so that other programs slow down all alike
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    rates = {name: count / min(times) for name, times in seconds.items()}
    bare_rate = max(rate for name, rate in rates.items() if name != "stage")
    return {
        "clips_per_second": round(rates["stage"], 4),
        "bare_clips_per_second": round(bare_rate, 4),
        "ratio": round(rates["stage"] / bare_rate, 4),
        "seconds": {name: [round(second, 4) for second in times] for name, times in seconds.items()},
        "precision": config.cache.precision,
    }


def video_files(folder: Path, count: int, num_frames: int, resolution: int) -> FixedClips:
    """Smooth random videos as MP4 files of exactly one clip each, and the clips."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04d}.mp4" for number in range(count)]
    for number, name in enumerate(names):
        coarse = torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(number)) * 2 - 1
        video = torch.nn.functional.interpolate(coarse, (num_frames, resolution, resolution), mode="trilinear")
        write_video(folder / name, to_uint8(video[0]), fps=25)
    facts = {"label": -1, "split": "train", "num_frames": num_frames, "width": resolution, "height": resolution}
    entries = tuple(ClipEntry(path=name, fps=25.0, reader="av", sha256="", **facts) for name in names)
    data = DataConfig(root=str(folder), resolution=resolution, num_frames=num_frames, memory_cache_gb=0)
    return FixedClips(ClipIndex(folder, (), entries, ()), data, "train")


def read_row(config: Benchmark, folder: Path, storage: str) -> dict[str, Any]:
    """Random clips from the page cache, whitened: stored bytes per second, and clips."""
    cache = random_cache(config, folder / storage, storage)
    stored = (2 if storage == "means_fp16" else 4) * sum(prod(entry["shape"]) for entry in cache.parts.values())
    passes = []  # (clips per second, share of one processor)
    for number in range(config.benchmark.rounds + 1):  # the first one brings the files into the page cache
        order = torch.randperm(len(cache), generator=torch.Generator().manual_seed(number)).split(READ_BATCH)
        started, started_cpu = time.perf_counter(), time.process_time()
        for positions in order:
            cache.latents(positions.tolist())
        seconds = time.perf_counter() - started
        passes.append((len(cache) / seconds, (time.process_time() - started_cpu) / seconds))
    rate, cpu_share = max(passes[1:])
    return {
        "clips_per_second": round(rate, 1),
        "gb_per_second": round(rate * stored / 1e9, 4),
        "cpu_share": round(cpu_share / torch.get_num_threads(), 4),
        "clips": len(cache),
        "gb": round(len(cache) * stored / 1e9, 4),
    }


def random_cache(config: Benchmark, folder: Path, storage: str) -> LatentCache:
    """A cache of noise with the shapes of the configured autoencoder; its means in float32 are benchmark.cache_gb."""
    with torch.device("meta"):
        vae = build_autoencoder(config.vae)
        video = vae.pad_clip(torch.empty(1, 3, config.benchmark.num_frames, *[config.benchmark.resolution] * 2))
        shapes = vae.latent_shapes(tuple(video.shape[2:]))
    clip_bytes = 4 * sum(prod(shape) for shape in shapes.values())
    count = max(READ_BATCH, round(config.benchmark.cache_gb * 1e9 / clip_bytes))
    clips = [{"path": f"{i}", "label": -1, "split": "train", "start": 0} for i in range(count)]
    writer = LatentCacheWriter(folder, clips, (), {}, READ_BATCH, storage)
    for shard in writer.missing(verify=False):
        generator, n = torch.Generator().manual_seed(shard), len(writer.clips_of(shard))
        means = {part: torch.randn(n, *shape, generator=generator) for part, shape in shapes.items()}
        writer.write(shard, {part: (mean, torch.zeros_like(mean)) for part, mean in means.items()})
    return writer.finish()


def train_row(config: Benchmark, folder: Path, device: torch.device) -> dict[str, Any]:
    """The share of a training step of Latte that is spent waiting for latents; on a CPU one clip per step.

    without_thread: what it would be if the step began to read when it needs its batch.
    """
    cache = random_cache(config, folder / STORAGES[0], STORAGES[0])
    loop = replace(config.latte.loop, global_batch_size=1) if device.type == "cpu" else config.latte.loop
    torch.manual_seed(0)
    model = Latte(**build_records(config.latte, cache.parts, cache.classes))
    task = LatteTask(model, lambda step: cache.batches("train", 0, step, loop.global_batch_size), list, ignore)
    state = TrainingState(task, loop, folder, device)
    batches, waited, total = task.batches(0), 0.0, 0.0
    num_steps = config.benchmark.warm_up + config.benchmark.repeats
    for step in range(num_steps):
        started = time.perf_counter()
        batch = next(batches)
        arrived = time.perf_counter()
        draws = Draws(0, task.stage, step, batch["index"])
        scalars = take_step(state, accumulate_gradient(state, "latte", batch, draws, step))
        state.average(step + 1, updated=True)
        scalars.read()
        if step >= config.benchmark.warm_up:
            waited, total = waited + arrived - started, total + time.perf_counter() - started
    started = time.perf_counter()
    for positions in torch.randperm(len(cache))[: 4 * loop.global_batch_size].split(loop.global_batch_size):
        cache.latents(positions.tolist())
    reading = (time.perf_counter() - started) / 4
    step_seconds, working = total / config.benchmark.repeats, (total - waited) / config.benchmark.repeats
    return {
        "size": config.latte.size,
        "clips_per_step": loop.global_batch_size,
        "precision": loop.precision,
        "step_seconds": round(step_seconds, 5),
        "waiting_share": round(waited / total, 6),
        "waiting_share_without_thread": round(reading / (reading + working), 6),
    }


def ignore(model: Latte, folder: Path, step: int) -> None:
    """No pictures."""


def describe(config: Benchmark) -> str:
    """For run.dry_run: what is measured, and where the result goes."""
    section = config.benchmark
    return (
        f"encodes {section.cache_clips} clips of {section.num_frames} x {section.resolution} x {section.resolution}, "
        f"reads {section.cache_gb} GB of latents, trains Latte {config.latte.size} for "
        f"{section.warm_up + section.repeats} steps\n"
        f"result: {Path(config.run.root) / config.run.name / KIND}.json"
    )
