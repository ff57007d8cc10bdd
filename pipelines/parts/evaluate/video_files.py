"""Videos in files of any kind that peers leave behind: checked before the first score, then read one by one.

A video is a video file, a folder of PNG or JPEG frames, an .npy / .npz array or one of our .safetensors.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import av
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.data.data_config import DataConfig
from pipelines.data.frame_reader import video_stream
from pipelines.data.probe import probe_files
from pipelines.data.video_file import read_video
from pipelines.data.video_sources import list_files
from pipelines.metrics.codec_round_trip import JPEG_QUALITY
from pipelines.run.hashes import hash_file

FRAMES = {".png": "", ".jpg": "jpeg", ".jpeg": "jpeg"}  # suffix of a frame -> what it went through
ARRAYS = (".npy", ".npz", ".safetensors")
TEXT = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".md", ".html", ".log")
LOSSLESS_CODECS = ("ffv1", "huffyuv", "png", "rawvideo", "utvideo")


@dataclass(frozen=True)
class VideoFacts:
    """What a check found in one file or folder of frames."""

    name: str  # below the folder that was given
    num_frames: int
    height: int
    width: int
    sha256: str  # of the file, or over the files of a folder
    codec: str  # "" = lossless
    reader: str = ""  # of a video file

    def read(self, root: Path, num_frames: int) -> Tensor:
        """The first frames, (num_frames, h, w, 3) uint8."""
        path = root / self.name
        if path.is_dir():
            return torch.from_numpy(np.stack([read_frame(file) for file in frame_files(path)[:num_frames]]))
        if path.suffix.lower() in ARRAYS:
            return torch.from_numpy(read_array(path)[:num_frames].copy())
        return read_video(path, range(num_frames), self.reader)


def find_videos(root: Path) -> list[str]:
    """Names of all videos below `root`, sorted; ValueError for a file that cannot be one, or where there is none.

    Text beside the videos is passed over, hidden files too; pictures in a folder are the frames of one video.
    """
    names: set[str] = set()
    for name in list_files(root):
        path = Path(name)
        if any(part.startswith(".") for part in path.parts) or path.suffix.lower() in TEXT:
            continue
        names.add(path.parent.as_posix() if path.suffix.lower() in FRAMES else name)
    if not names:
        raise ValueError(f"{root} holds no video: give a folder of video files, frame folders or arrays")
    return sorted(names)


def check_videos(root: Path, names: Sequence[str], config: DataConfig, cache: Path) -> list[VideoFacts]:
    """Facts of every video, each opened and decoded once; remembered in the file `cache` by size and time.

    Video files are decoded in processes of their own, with limits (data.probe_*). ValueError naming the first video
    that cannot be read.
    """
    is_file = {name: (root / name).is_file() and Path(name).suffix.lower() not in ARRAYS for name in names}
    answers = probe_files(root, [name for name in names if is_file[name]], config, cache)
    known = dict(_remembered(cache.with_suffix(".arrays.jsonl")))
    facts = []
    with cache.with_suffix(".arrays.jsonl").open("a", encoding="utf-8") as memory:
        for name in names:
            if is_file[name]:
                facts.append(_from_probe(root, name, answers[name]))
                continue
            stamp = _stamp(root / name)
            found = known.get(stamp) or _check_frames_or_array(root, name)
            facts.append(found)
            if stamp not in known:
                memory.write(json.dumps({"stamp": stamp, "facts": asdict(found)}) + "\n")
    return facts


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in FRAMES and not file.name.startswith(".")]
    return sorted(files, key=lambda file: _parts(file.name))


def read_frame(file: Path) -> np.ndarray:
    """A picture as (h, w, 3) uint8; ValueError where it is damaged."""
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: some broken PNGs
        raise ValueError(f"{file} cannot be read as a picture ({error}): restore or remove it") from error


def jpeg_codec(file: Path) -> str:
    """ "jpeg75" where a picture was quantised as the codec of that name does, "jpeg" for any other quality."""
    with io.BytesIO() as buffer, Image.open(file) as image:
        Image.new("RGB", (16, 16)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        with Image.open(buffer) as expected:
            tables = [dict(getattr(picture, "quantization", {})) for picture in (image, expected)]
    return "jpeg75" if tables[0] == tables[1] else "jpeg"


def read_array(path: Path) -> np.ndarray:
    """The one uint8 array (t, h, w, 3) of an .npy, .npz or .safetensors file; ValueError for anything else in it."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        elif path.suffix.lower() == ".npz":
            with path.open("rb") as opened:  # numpy leaves it open where it is damaged
                arrays = dict(np.load(opened, allow_pickle=False))
        else:
            arrays = {"": np.load(path, allow_pickle=False, mmap_mode="r")}
    except (OSError, ValueError, EOFError, SafetensorError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}): restore or remove it") from error
    array = next(iter(arrays.values())) if len(arrays) == 1 else np.empty(0)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}".strip() for name, array in arrays.items())
        raise ValueError(f"{path} holds {shapes or 'nothing'}, expected one uint8 array (frames, height, width, 3)")
    return array


def _check_frames_or_array(root: Path, name: str) -> VideoFacts:
    path = root / name
    if not path.is_dir():
        frames, height, width, _ = read_array(path).shape
        return VideoFacts(name, frames, height, width, hash_file(path), "")
    files = frame_files(path)
    shapes = {file: read_frame(file).shape[:2] for file in files}
    height, width = first = shapes[files[0]]
    if odd := next((file for file, shape in shapes.items() if shape != first), None):
        raise ValueError(f"{odd} is {shapes[odd]}, but the frames before it are {first}: remove or repair that video")
    content = sha256("".join(hash_file(file) for file in files).encode()).hexdigest()
    codec = next((jpeg_codec(file) for file in files if FRAMES[file.suffix.lower()]), "")
    return VideoFacts(name, len(files), height, width, content, codec)


def _from_probe(root: Path, name: str, answer: dict) -> VideoFacts:
    if reason := answer.get("error"):
        raise ValueError(f"{root / name} cannot be scored ({reason}): repair or remove it")
    with av.open(str((root / name).absolute())) as container:
        stream = video_stream(container)
        assert stream is not None, "it was checked"
        context = stream.codec_context
        lossless = context.name in LOSSLESS_CODECS and (context.pix_fmt or "").startswith(("rgb", "bgr", "gbr"))
        codec = "" if lossless else context.name
    num_frames, height, width = (int(answer[key]) for key in ("num_frames", "height", "width"))
    return VideoFacts(name, num_frames, height, width, str(answer["sha256"]), codec, str(answer["reader"]))


def _remembered(memory: Path) -> Iterator[tuple[str, VideoFacts]]:
    for line in memory.read_text(encoding="utf-8").splitlines() if memory.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the last line of a killed run
            continue
        yield entry["stamp"], VideoFacts(**entry["facts"])


def _stamp(path: Path) -> str:
    files = frame_files(path) if path.is_dir() else [path]
    states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256(json.dumps(states).encode()).hexdigest()


def _parts(name: str) -> list[tuple[bool, int, str]]:
    """For sorting: numbers by their value, before text."""
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in re.findall(r"\d+|\D+", name)]
