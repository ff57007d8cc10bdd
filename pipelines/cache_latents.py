"""Encode every clip once: python pipelines/cache_latents.py [CONFIG.yaml ...] [key=value ...]

Clips + autoencoder -> latent cache: posterior moments, labels, statistics, provenance, a probe for previews. Both
splits are cached. Several processes share the work under torchrun, or as jobs that know nothing of each other, of which
the last finishes the cache: `python pipelines/cache_latents.py CONFIG.yaml cache.num_jobs=8 cache.job=0` to `=7`.

The bytes depend on the configuration and the kind of processor alone, not on how many processes there are nor on how
often they were killed: a clip is encoded by itself, on a CPU by one thread (and several clips at once), since the last
digits of a convolution change with the batch and with the number of threads.
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from pipelines.data.clip_dataset import FixedClips
from pipelines.data.clip_index import SPLITS, ClipIndex
from pipelines.data.latent_cache_writer import LatentCacheWriter
from pipelines.data.latent_rgb import small_frames
from pipelines.data.read_watch import ReadWatch, read_ahead
from pipelines.inputs.cache import fixed_clips, provenance
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import DATA_MAY_CHANGE, index_input, open_index
from pipelines.inputs.models import autoencoder_path
from pipelines.inputs.precision import autocast
from pipelines.run.folder import StageFolder
from pipelines.run.hashes import hash_folder
from pipelines.run.live_line import told
from pipelines.run.ranks import connect, wait
from pipelines.run.stage import main, select
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

STAGE = "cache_latents"
MAY_CHANGE = ("cache.vae", "cache.num_workers", "cache.job", "cache.num_jobs")
EncodedClip = tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]  # moments and `small_frames`


def run(config: Experiment) -> None:
    """Write, or go on writing, this process's share of the latent cache of the run; the last one finishes it."""
    index = open_index(config)
    vae_path = autoencoder_path(config)
    inputs = index_input(index) | {"vae": {"path": str(vae_path), "hash": hash_folder(vae_path)}}
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    settings, defaults = (select(one, ("data", "cache", "run")) for one in (config, Experiment()))
    num_jobs, may = config.cache.num_jobs, (*MAY_CHANGE, *DATA_MAY_CHANGE)
    with folder.open(settings, inputs, may, shared=num_jobs > 1, defaults=defaults):
        ranks = connect(config.run.device)
        vae = load_autoencoder(vae_path)
        clips = {split: fixed_clips(config, index, split) for split in splits_of(index)}
        writer = LatentCacheWriter(
            folder.path / "latents",
            [{**one.describe(i), "split": split} for split, one in clips.items() for i in range(len(one))],
            index.classes,
            provenance(config, index),
            config.cache.clips_per_shard,
            config.cache.storage,
            vae.open_loop,
        )
        worker = config.cache.job * ranks.num_processes + ranks.process_index
        if missing := writer.missing(worker, num_jobs * ranks.num_processes):
            clip = torch.empty(
                1, 3, config.data.num_frames, config.data.resolution, config.data.resolution, device="meta"
            )
            writer.require_space(vae.latent_shapes(tuple(vae.pad_clip(clip).shape[2:])))
            write_shards(writer, missing, vae.to(ranks.device), list(clips.values()), config)
        wait()
        if folder.is_main and may_finish(folder, writer, num_jobs):
            cache = writer.finish()
            folder.finish({"clips": len(cache), "parts": {part: entry["shape"] for part, entry in cache.parts.items()}})


def may_finish(folder: StageFolder, writer: LatentCacheWriter, num_jobs: int) -> bool:
    """Whether this process is the one that finishes the cache; where it is not, says who will."""
    if num_jobs == 1:
        return True
    if not folder.become_only():
        print(f"{STAGE}: this job is done; the last of the others finishes the cache", file=sys.stderr)
        return False
    if missing := writer.missing(verify=False):
        jobs = sorted({shard % num_jobs for shard in missing})  # on one process per job
        print(
            f"{STAGE}: this job is done; {len(missing)} shards of others are missing, of jobs {jobs}", file=sys.stderr
        )
        return False
    return True


def splits_of(index: ClipIndex) -> list[str]:
    """The splits that hold clips, training first."""
    return [split for split in SPLITS if any(entry.split == split for entry in index.entries)]


def write_shards(
    writer: LatentCacheWriter, shards: Sequence[int], vae: VideoAutoencoder, clips: list[FixedClips], config: Experiment
) -> None:
    """Encode and commit shards; each is written while the next one is encoded."""
    videos = read_clips(clips, [i for shard in shards for i in writer.clips_of(shard)], config.cache.num_workers)
    encoded = encode_clips(vae, videos, config.cache.precision)
    is_silent = torch.distributed.is_initialized() and torch.distributed.get_rank() > 0
    with ThreadPoolExecutor(1) as thread:
        committed: Future[None] | None = None
        for shard in told(shards, STAGE, "shard", len(shards), is_silent):
            moments, rgb = stack(list(islice(encoded, len(writer.clips_of(shard)))))
            if committed:
                committed.result()
            committed = thread.submit(writer.write, shard, moments, rgb)
        if committed:
            committed.result()


def read_clips(clips: Sequence[FixedClips], positions: Sequence[int], num_workers: int) -> Iterator[torch.Tensor]:
    """The videos (1, 3, t, h, w) in [-1, 1] of the clips at `positions` of all `clips` together, in this order."""
    watch = ReadWatch(clips[0].config.probe_seconds)
    for split in clips:
        split.files.free_bytes //= max(num_workers, 1)
        split.files.watch = watch
    together = max(split.clips_per_file for split in clips)  # clips of one file are read by one worker
    groups = [positions[start : start + together] for start in range(0, len(positions), together)]
    dataset: ConcatDataset[Any] = ConcatDataset(clips)
    for videos in read_ahead(dataset, watch, num_workers, batch_sampler=groups, collate_fn=videos_of):
        yield from videos


def videos_of(clips: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Each clip as a batch of one, (1, 3, t, h, w) in [-1, 1]."""
    return [clip["video"].unsqueeze(0) for clip in clips]


def encode_clips(vae: VideoAutoencoder, videos: Iterator[torch.Tensor], precision: str) -> Iterator[EncodedClip]:
    """What the cache stores of each clip, in order: clips by themselves, on a CPU as many at once as it has threads."""
    on_cpu = vae.device.type == "cpu"
    num_threads = torch.get_num_threads() if on_cpu else 1
    with one_thread_each(num_threads) if on_cpu else ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[EncodedClip]] = deque()
        for video in videos:
            waiting.append(pool.submit(encode, vae, video, precision))
            if len(waiting) > num_threads:  # one more than are at work
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def one_thread_each(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads, and this one meanwhile, compute without dividing the work further."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def encode(vae: VideoAutoencoder, video: torch.Tensor, precision: str) -> EncodedClip:
    """One clip (1, 3, t, h, w) in [-1, 1] -> {part: (mean, log-variance)}, each (1, c, t, h, w) float32, and its
    `small_frames` (1, 3, t', h, w), on the CPU."""
    padded = vae.pad_clip(video.to(vae.device))
    with autocast(vae.device, precision):
        # The means are used for the closed loop, so the cached mean of every part is what decoding expects.
        posterior = vae.encode(padded).posterior
    moments = {part: (x.mean.float().cpu(), x.log_variance.float().cpu()) for part, x in posterior.items()}
    size = next(iter(moments.values()))[0].shape[-2:]
    return moments, small_frames(padded.float(), size).cpu()


def stack(clips: Sequence[EncodedClip]) -> EncodedClip:
    """Clips of a shard as one batch."""

    def both(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        means, logvars = zip(*(moments[part] for moments, _ in clips), strict=True)
        return torch.cat(means), torch.cat(logvars)

    return {part: both(part) for part in clips[0][0]}, torch.cat([rgb for _, rgb in clips])


def describe(config: Experiment) -> str:
    """For run.dry_run: where the autoencoder comes from."""
    source = config.cache.vae or str(Path(config.run.root) / config.run.name / "train_vae")
    return f"encodes both splits with the autoencoder of {source}"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "cache", "run"), describe)
