"""Clips of a fixed size from the files of an index: random ones for training, fixed ones for caching and scores."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from pipelines.data.clip_index import ClipEntry, ClipIndex
from pipelines.data.data_config import DataConfig
from pipelines.data.frame_reader import frame_chunks
from pipelines.data.read_watch import ReadWatch, read_ahead
from pipelines.data.video_file import to_float

__all__ = ["DataConfig", "FixedClips", "TrainingClips", "batches", "epoch_order", "preprocessing"]

# First words of the seeds, so that the draws for clips and for the order of an epoch have nothing in common.
_CLIP, _ORDER = 1, 2


def preprocessing(config: DataConfig) -> dict[str, int | str]:
    """What turns a file into a fixed clip; stands in the provenance of a latent cache."""
    sizes = {name: getattr(config, name) for name in ("resolution", "num_frames", "frame_stride")}
    return sizes | {"resize": "short side, antialiased bicubic, uint8", "crop": "centre"}


class ResizedFiles:
    """Frames of files with the short side resized; whole files stay in memory up to `memory_cache_gb`.

    The pixels do not depend on what is kept: every frame is resized alone and rounded to uint8 before anything else.
    """

    def __init__(self, index: ClipIndex, config: DataConfig) -> None:
        self.root, self.resolution = index.root, config.resolution
        self.free_bytes = int(config.memory_cache_gb * 2**30)
        self.kept: dict[str, Tensor] = {}
        self.watch = ReadWatch(config.probe_seconds)

    def num_bytes(self, entry: ClipEntry) -> int:
        height, width = resized_shape(entry.height, entry.width, self.resolution)
        return entry.num_frames * height * width * 3

    def frames(self, entry: ClipEntry, indices: range) -> Tensor:
        """Frames `indices` of a file, (t, h, w, 3) uint8, min(h, w) = resolution."""
        if entry.path not in self.kept and self.num_bytes(entry) <= self.free_bytes:
            self.kept[entry.path] = self._decode(entry, range(entry.num_frames))
            self.free_bytes -= self.num_bytes(entry)
        if entry.path in self.kept:
            return self.kept[entry.path][indices.start : indices.stop : indices.step]
        return self._decode(entry, indices)

    def _decode(self, entry: ClipEntry, indices: range) -> Tensor:
        path = self.root / entry.path
        chunks = self.watch.pieces(path, frame_chunks(path, indices, entry.reader))
        return torch.cat([resize_short_side(torch.from_numpy(chunk), self.resolution) for chunk in chunks])


def resized_shape(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Shape after the short side has become `resolution`."""
    scale = resolution / min(height, width)
    return max(resolution, round(height * scale)), max(resolution, round(width * scale))


def resize_short_side(video_uint8: Tensor, resolution: int) -> Tensor:
    """Antialiased bicubic resize, (t, h, w, 3) uint8 -> (t, h', w', 3) uint8 with min(h', w') = resolution."""
    _, height, width, _ = video_uint8.shape
    shape = resized_shape(height, width, resolution)
    if shape == (height, width):
        return video_uint8
    frames = rearrange(video_uint8, "t h w c -> t c h w")
    frames = functional.interpolate(frames, size=shape, mode="bicubic", antialias=True)
    return rearrange(frames, "t c h w -> t h w c").contiguous()


def centre_square(video_uint8: Tensor, resolution: int) -> Tensor:
    """The frames of a file, (t, h, w, 3) uint8 -> (t, resolution, resolution, 3), as every centre clip is made."""
    return crop(resize_short_side(video_uint8, resolution), resolution, 0.5, 0.5)


class TrainingClips(Dataset):
    """Random clips: `clips[(step, index, global_batch_size)]` is a pure function of its seed, step and index.

    Every epoch is a seeded permutation of the files; each file gives one clip per epoch, with random start and crop.
    """

    def __init__(self, index: ClipIndex, config: DataConfig, split: str, seed: int) -> None:
        self.entries = index.split(split)
        self.files = ResizedFiles(index, config)
        self.config, self.seed = config, seed

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Tensor | int | str]:
        """Item `index` of the global batch of `step`.

        Returns:
            {"video": (3, t, h, w) float in [-1, 1], "label": int (-1 = none), "path": str, "index": int}.

        Raises:
            ValueError: the file can no longer be read.
        """
        step, index, global_batch_size = key
        epoch, position = divmod(step * global_batch_size + index, len(self.entries))
        entry = self.entries[epoch_order(self.seed, epoch, len(self.entries))[position]]
        random = np.random.default_rng([_CLIP, self.seed, step, index])
        start = int(random.integers(entry.num_frames - self.config.clip_span + 1))
        across, down, mirror = random.random(3)
        frames = self.files.frames(entry, range(start, start + self.config.clip_span, self.config.frame_stride))
        frames = crop(frames, self.config.resolution, down, across)
        if self.config.flip and mirror < 0.5:
            frames = frames.flip(dims=[2])
        return {"video": to_float(frames), "label": entry.label, "path": entry.path, "index": index}


class FixedClips(Dataset):
    """The same clips every time: starts evenly spaced over the file (the middle for one), crops along its longer side
    (the centre for one), each as it is or also mirrored.

    Clips of a file follow each other, then crops of a clip, then the clip and its mirror image; `clips[i]` = {"video":
    (3, t, h, w) in [-1, 1], "label", "path", "start", "place", "mirrored"}.
    """

    def __init__(
        self,
        index: ClipIndex,
        config: DataConfig,
        split: str,
        clips_per_video: int = 1,
        crops_per_clip: int = 1,
        mirror: bool = False,
    ) -> None:
        self.entries = index.split(split)
        self.files = ResizedFiles(index, config)
        self.config, self.mirror = config, mirror
        self.clips_per_video, self.crops_per_clip = clips_per_video, crops_per_clip
        self._window: tuple[str, range] | None = None  # crops and the mirror image follow each other: decoded once
        self._frames = torch.empty(0)

    def __len__(self) -> int:
        return len(self.entries) * self.clips_per_file

    @property
    def clips_per_file(self) -> int:
        return self.clips_per_video * self.crops_per_clip * (1 + self.mirror)

    def describe(self, i: int) -> dict[str, int | float | str]:
        """Label, path, first frame, place of the crop (0.5 = centre) and mirroring of clip i, without reading it."""
        i, mirrored = divmod(i, 1 + self.mirror)
        i, crop_number = divmod(i, self.crops_per_clip)
        file, start_number = divmod(i, self.clips_per_video)
        entry = self.entries[file]
        last_start = entry.num_frames - self.config.clip_span
        return {
            "label": entry.label,
            "path": entry.path,
            "start": int(last_start * (start_number + 0.5) / self.clips_per_video),
            "place": (crop_number + 0.5) / self.crops_per_clip,
            "mirrored": mirrored,
        }

    def __getitem__(self, i: int) -> dict[str, Tensor | int | float | str]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        clip = self.describe(i)
        frames_used = range(clip["start"], clip["start"] + self.config.clip_span, self.config.frame_stride)
        entry = self.entries[i // self.clips_per_file]
        if self._window != (entry.path, frames_used):
            self._frames, self._window = self.files.frames(entry, frames_used), (entry.path, frames_used)
        frames = crop(self._frames, self.config.resolution, clip["place"], clip["place"])
        if clip["mirrored"]:
            frames = frames.flip(dims=[2])
        return {"video": to_float(frames), **clip}


def crop(frames: Tensor, resolution: int, down: float, across: float) -> Tensor:
    """Cuts (t, h, w, 3) to (t, resolution, resolution, 3); down, across in [0, 1) place the window, 0.5 = centre."""
    _, height, width, _ = frames.shape
    top, left = int((height - resolution + 1) * down), int((width - resolution + 1) * across)
    return frames[:, top : top + resolution, left : left + resolution]


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The seeded permutation of range(count) for one epoch."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(count)


def batches(
    dataset: TrainingClips, first_step: int, global_batch_size: int, rank: int = 0, world: int = 1, num_workers: int = 0
) -> Iterator[dict[str, Tensor | list]]:
    """This rank's share of the global batch of first_step, first_step + 1, ... without end.

    Yields:
        {"video": (b, 3, t, h, w) in [-1, 1], "label": (b,) int64, "path": [...], "index": [...] in the global batch}.

    Raises:
        ValueError: the global batch cannot be shared equally, or a file can no longer be read, or ends a worker.
    """
    if global_batch_size % world:
        raise ValueError(f"got global_batch_size {global_batch_size}, expected a multiple of the {world} processes")
    if num_workers:
        _prepare_for_workers(dataset, num_workers)
    shares = _Shares(first_step, global_batch_size, rank, world)
    yield from read_ahead(dataset, dataset.files.watch, num_workers, batch_sampler=shares, collate_fn=collate)


def _prepare_for_workers(dataset: TrainingClips, num_workers: int) -> None:
    files = dataset.files
    if sum(files.num_bytes(entry) for entry in dataset.entries if entry.path not in files.kept) <= files.free_bytes:
        for entry in dataset.entries:  # decoded once here; forked workers share the pages
            files.frames(entry, range(1))
    else:
        files.free_bytes //= num_workers


class _Shares:
    """Endless batch sampler: keys of this rank's share of each step."""

    def __init__(self, first_step: int, global_batch_size: int, rank: int, world: int) -> None:
        self.first_step, self.global_batch_size = first_step, global_batch_size
        share = global_batch_size // world
        self.indices = range(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        step = self.first_step
        while True:
            yield [(step, index, self.global_batch_size) for index in self.indices]
            step += 1


def collate(clips: list[dict[str, Tensor | int | str]]) -> dict[str, Tensor | list]:
    """Stacks videos and labels; everything else becomes a list."""
    batch = {name: [clip[name] for clip in clips] for name in clips[0]}
    return batch | {"video": torch.stack(batch["video"]), "label": torch.tensor(batch["label"])}
