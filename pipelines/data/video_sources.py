"""Video files that a user names, one or a folder of them: checked first, then read in pieces, in constant memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipelines.data.clip_dataset import resize_short_side, resized_shape
from pipelines.data.clip_index import ClipEntry
from pipelines.data.data_config import DataConfig
from pipelines.data.frame_reader import frame_chunks
from pipelines.data.probe import probe_files
from pipelines.data.split_lists import NOT_VIDEO

UNKNOWN_FPS = 25.0  # for files that do not say, or say something no player can show
FPS_RANGE = (1.0, 240.0)


class ReadError(ValueError):
    """A file that was checked before cannot be read to its end."""


@dataclass(frozen=True)
class VideoSource:
    """One readable video file and how it is read."""

    name: str  # in tables and folders: the path below the folder that was named
    path: Path
    sha256: str  # of the file
    num_frames: int  # frames that are read
    file_frames: int  # frames that the file holds
    height: int  # of the frames as they are read
    width: int
    fps: float
    random_reader: str  # "decord" or "av": for single clips; what is read from front to back is read by "av"

    def pieces(self, piece_frames: int) -> Iterator[Tensor]:
        """Its frames in order, (n, h, w, 3) uint8 with n <= piece_frames; ReadError where reading fails."""
        # Not decord, even where it gives the same bytes: it decodes ahead of a slow reader, without a bound on memory.
        chunks = frame_chunks(self.path, range(self.num_frames), "av", piece_frames)
        while True:
            try:
                frames = next(chunks, None)
            except ValueError as error:
                raise ReadError(str(error)) from error
            if frames is None:
                return
            frames_uint8 = torch.from_numpy(frames)
            if frames_uint8.shape[1:3] != (self.height, self.width):
                frames_uint8 = resize_short_side(frames_uint8, min(self.height, self.width))
            yield frames_uint8


@dataclass(frozen=True)
class Unreadable:
    """A file that ends in no video, and why."""

    name: str
    reason: str


def find_sources(
    given: str, config: DataConfig, resolution: int, max_frames: int, cache: Path
) -> tuple[list[VideoSource], list[Unreadable]]:
    """Every file under `given`, readable or with a reason: none is skipped.

    Args:
        given: a file, or a folder with everything below it.
        config: limits of the checks (probe_*, max_*_pixels).
        resolution: short side of the frames as they are read; 0 = the file's own size.
        max_frames: frames that are read at most; 0 = all.
        cache: file that remembers checks, see probe_files.

    Raises:
        ValueError: there is no such file or folder, or the folder is empty.
    """
    root = Path(given)
    if not root.exists():
        raise ValueError(f"reconstruct.input {given!r} does not exist; give a video file or a folder of videos")
    names = sorted(list_files(root)) if root.is_dir() else [root.name]
    if not names:
        raise ValueError(f"reconstruct.input {given!r} holds no file; give a video file or a folder of videos")
    folder = root if root.is_dir() else root.parent
    is_video = {name: not root.is_dir() or Path(name).suffix.lower() not in NOT_VIDEO for name in names}
    answers = probe_files(folder, [name for name in names if is_video[name]], config, cache)
    sources, unreadable = [], []
    for name in names:
        if not is_video[name]:
            unreadable.append(Unreadable(name, f"not opened: {Path(name).suffix.lower()} is no video"))
        elif reason := answers[name].get("error"):
            unreadable.append(Unreadable(name, str(reason)))
        else:
            sources.append(make_source(folder, name, answers[name], resolution, max_frames))
    return sources, unreadable


def make_source(
    folder: Path, name: str, facts: dict[str, int | float | str], resolution: int, max_frames: int
) -> VideoSource:
    """The file `name` below `folder` with the facts of a check: num_frames, height, width, fps, reader, sha256."""
    height, width, fps = int(facts["height"]), int(facts["width"]), float(facts["fps"])
    if resolution:
        height, width = resized_shape(height, width, resolution)
    return VideoSource(
        name,
        folder / name,
        str(facts["sha256"]),
        min(int(facts["num_frames"]), max_frames or int(facts["num_frames"])),
        int(facts["num_frames"]),
        height,
        width,
        fps if FPS_RANGE[0] <= fps <= FPS_RANGE[1] else UNKNOWN_FPS,
        str(facts["reader"]),
    )


def indexed_sources(root: Path, entries: tuple[ClipEntry, ...], resolution: int, max_frames: int) -> list[VideoSource]:
    """Files of a clip index, which have been checked already."""
    return [make_source(root, entry.path, vars(entry), resolution, max_frames) for entry in entries]


def list_files(root: Path) -> Iterator[str]:
    """Paths of all files below `root`, relative to it; links to folders are followed, once each."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders[:] = []
            continue
        seen.add(real)
        yield from ((Path(folder) / name).relative_to(root).as_posix() for name in names)
