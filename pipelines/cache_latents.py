"""Encode every clip once: python pipelines/cache_latents.py [CONFIG.yaml ...] [key=value ...]

Clips + autoencoder -> latent cache: posterior moments, labels, statistics, provenance. Both splits are cached.
"""

from pathlib import Path

import torch
from tqdm import tqdm

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import SPLITS, ClipIndex
from pipelines.data.latent_cache import LatentCache, LatentCacheWriter
from pipelines.experiment import Experiment
from pipelines.prepare_data import open_index
from pipelines.run.checkpoint import hash_folder
from pipelines.run.folder import StageFolder, resolve_model
from pipelines.run.ranks import connect, wait
from pipelines.run.stage import main, select
from pipelines.train_motion import DATA_MAY_CHANGE, index_input
from pipelines.train_vae import run_path
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

STAGE = "cache_latents"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def run(config: Experiment) -> None:
    """Write, or go on writing, the latent cache of the run."""
    index = open_index(config)
    vae_path = resolve_model(config.cache.vae, run_path(config), "train_vae")
    inputs = index_input(index) | {"vae": {"path": str(vae_path), "hash": hash_folder(vae_path)}}
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    may_change = ("cache.batch_size", "cache.vae", *DATA_MAY_CHANGE)
    with folder.open(select(config, ("data", "cache", "run")), inputs, may_change):
        ranks = connect(config.run.device)
        datasets = [FixedClips(index, config.data, split, config.cache.clips_per_video) for split in splits_of(index)]
        clips = [{**clips.describe(i), "split": split} for split, clips in zip(splits_of(index), datasets, strict=True)
                 for i in range(len(clips))]  # fmt: skip
        writer = LatentCacheWriter(
            folder.path / "latents", clips, index.classes, provenance(config, index), config.cache.clips_per_shard
        )
        missing = writer.missing(ranks.process_index, ranks.num_processes)
        if missing:
            vae = load_autoencoder(vae_path).to(ranks.device)
            all_clips = torch.utils.data.ConcatDataset(datasets)
            for shard in tqdm(missing, desc=STAGE, unit="shard", disable=not folder.is_main):
                writer.write(shard, encode(vae, all_clips, writer.clips_of(shard), config))
        wait()
        if folder.is_main:
            cache = writer.finish()
            folder.finish({"clips": len(cache), "parts": {part: entry["shape"] for part, entry in cache.parts.items()}})


def splits_of(index: ClipIndex) -> list[str]:
    """The splits that hold clips, training first."""
    return [split for split in SPLITS if any(entry.split == split for entry in index.entries)]


@torch.no_grad()
def encode(
    vae: VideoAutoencoder, clips: torch.utils.data.Dataset, positions: range, config: Experiment
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Moments of the clips at `positions`: {part: (mean, log-variance)}, each (n, c, t, h, w) on the CPU."""
    parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for start in range(positions.start, positions.stop, config.cache.batch_size):
        stop = min(start + config.cache.batch_size, positions.stop)
        video = collate([clips[i] for i in range(start, stop)])["video"].to(vae.device)
        with autocast(vae.device, config.cache.precision):
            # The means are used for the closed loop, so the cached mean of every part is what decoding expects.
            posterior = vae.encode(vae.pad_clip(video)).posterior
        for part, gaussian in posterior.items():
            parts.setdefault(part, []).append((gaussian.mean.cpu(), gaussian.log_variance.cpu()))
    return {part: tuple(torch.cat(values) for values in zip(*moments, strict=True)) for part, moments in parts.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a stage's `precision` option. ValueError for an unknown one."""
    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(DTYPES)}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def provenance(config: Experiment, index: ClipIndex) -> dict[str, object]:
    """What a cache depends on: the hash of the autoencoder, of the index, and the preprocessing."""
    vae_path = resolve_model(config.cache.vae, run_path(config), "train_vae")
    data = config.data
    preprocessing = {
        "resolution": data.resolution,
        "num_frames": data.num_frames,
        "frame_stride": data.frame_stride,
        "clips_per_video": config.cache.clips_per_video,
    }
    return {"vae": hash_folder(vae_path), "index": index.fingerprint, "preprocessing": preprocessing}


def open_cache(config: Experiment, index: ClipIndex) -> LatentCache:
    """The latent cache of the run; ValueError when it was made from another autoencoder, data set or preprocessing."""
    cache = LatentCache(run_path(config) / STAGE / "latents", verify=False)
    cache.check(**provenance(config, index))
    return cache


def describe(config: Experiment) -> str:
    """For run.dry_run: where the autoencoder comes from."""
    source = config.cache.vae or str(Path(config.run.root) / config.run.name / "train_vae")
    return f"encodes both splits with the autoencoder of {source}"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "cache", "run"), describe)
