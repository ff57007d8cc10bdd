"""The generated videos of an evaluation: a set that sample.py made, a pipeline's, or a folder of anybody's."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import read_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.samples import sample_file
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.fvd_protocols import find_protocol
from pipelines.parts.evaluate.context import SampleSet
from pipelines.parts.evaluate.video_files import VideoFacts, check_videos, find_videos
from pipelines.run.hashes import digest, hash_file

CODEC_OF_SAMPLES = "h264-crf14"  # of the mp4 files of sample.py


def read_sample_set(folder: Path, index: ClipIndex) -> SampleSet:
    """The videos that samples.json of a folder lists, exact where they were saved lossless, else from their mp4 files.

    A class is known by its name: a Latte from another run may number the classes otherwise. ValueError where a file is
    missing.
    """
    plan = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    codec = "" if (folder / "lossless").is_dir() else CODEC_OF_SAMPLES
    files = [sample_file(folder, entry, "mp4" if codec else "lossless") for entry in plan]
    for file in files:
        if not file.exists():
            raise ValueError(f"{file} is missing: call sample.py again with the same options, it completes the set")

    def read(position: int) -> Tensor:
        if codec:
            return read_video(files[position])
        try:
            return load_file(files[position])["video"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{files[position]} is damaged ({error}): remove it and call sample.py again") from error

    labels = [index.classes.index(entry["class"]) if entry["class"] in index.classes else -1 for entry in plan]
    return SampleSet(
        ClipSet(labels, read),
        tuple(entry["name"] for entry in plan),
        digest([[file.name, hash_file(file)] for file in files]),
        codec,
        len(read(0)),
        tuple(sorted({int(entry["seed"]) for entry in plan})),
    )


def read_folder(folder: Path, config: Experiment, index: ClipIndex, cache: Path) -> SampleSet:
    """Everybody's videos below a folder; a folder named as a class of the data set gives its videos that label.

    cache: file that remembers checks. ValueError naming the first video that cannot be read, is too short for the
    protocol, or does not have the size of the real clips.
    """
    protocol, side = find_protocol(config.evaluate.protocol), config.data.resolution
    facts = check_videos(folder, find_videos(folder), config.data, cache)
    for video in facts:
        if (video.height, video.width) != (side, side):
            raise ValueError(
                f"{folder / video.name} is {video.height} x {video.width} (height x width), but the real clips are "
                f"{side} x {side}: set data.resolution to the size of all samples, or repair the one that differs"
            )
        if video.num_frames < protocol.num_frames:
            raise ValueError(
                f"{folder / video.name} has {video.num_frames} frames, but {protocol.name} scores "
                f"{protocol.num_frames}: remove it or make it again"
            )
    num_frames = min(video.num_frames for video in facts)
    codecs = sorted({video.codec for video in facts})
    if len(codecs) > 1:
        raise ValueError(
            f"{folder} mixes videos of different codecs ({', '.join(name or 'lossless' for name in codecs)}), such as "
            f"{next(v.name for v in facts if v.codec == codecs[-1])}: score them apart"
        )
    return SampleSet(
        ClipSet([label_of(video, index) for video in facts], lambda i: facts[i].read(folder, num_frames)),
        tuple(video.name for video in facts),
        digest([[video.name, video.sha256] for video in facts]),
        codecs[0],
        num_frames,
    )


def label_of(video: VideoFacts, index: ClipIndex) -> int:
    """The class that a folder in the video's path is named after; -1 for none."""
    found = [index.classes.index(part) for part in Path(video.name).parts[:-1] if part in index.classes]
    return found[-1] if found else -1
