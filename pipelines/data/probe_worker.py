"""Checks video files one by one in a process of its own: the child side of probe.py, without torch.

Reads one JSON request per line from stdin, answers with one JSON line on stdout. May crash, hang or run out of memory
on a hostile file: the parent sees it, notes the file and starts another worker.
"""

import hashlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from pipelines.data import frame_reader

AVI_TOTAL_FRAMES = 48  # where the main header of an AVI file has its number of frames, in 4 bytes


def check(path: Path, max_frame_pixels: int, max_file_pixels: int) -> dict[str, int | float | str]:
    """Decodes a whole file, because headers can be wrong and only what was decoded once can be relied on.

    Returns:
        {"sha256", "num_frames", "header_frames" (0 = unknown), "width", "height", "fps", "reader"}, or {"error": why,
        perhaps "sha256"}.
    """
    if not path.is_file():
        return {"error": "not a file" if path.exists() else "missing"}
    if path.stat().st_size == 0:
        return {"error": "empty file (0 bytes)"}
    with path.open("rb") as file:
        result: dict[str, int | float | str] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    try:
        # Only local files: a playlist must not make the machine fetch something.
        with av.open(str(path), options={"protocol_whitelist": "file,crypto,data"}) as container:
            result |= _decode(path, container, max_frame_pixels, max_file_pixels)
    except (av.FFmpegError, OSError, ValueError, RuntimeError, IndexError) as error:
        result["error"] = _reason(error)
    except MemoryError:
        result["error"] = "decoding needs more memory than data.probe_memory_mb allows"
    return result


def _decode(path: Path, container: av.container.InputContainer, max_frame: int, max_file: int) -> dict:
    stream = frame_reader.video_stream(container)
    if stream is None:
        return {"error": "no video stream" + (" (audio only)" if container.streams.audio else "")}
    if stream.codec_context is None:
        return {"error": "no decoder for its video (encrypted or an unknown codec)"}
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_frame:
        return {"error": f"oversized: {width}x{height} is more than data.max_frame_pixels {max_frame}"}
    declared = _declared_frames(path, stream)
    if width * height * declared > max_file:
        return {"error": f"oversized: its header says {width}x{height} x {declared} frames, {too_many(max_file)}"}
    num_frames, kept, before_last, last, shape, damage = 0, {}, None, None, None, ""
    frames, converter = _until_error(container), VideoReformatter()
    for frame in frames:
        if isinstance(frame, str):
            damage = frame
            break
        if frame.width * frame.height > max_frame or frame.width * frame.height * (num_frames + 1) > max_file:
            what = f"{frame.width}x{frame.height} x {num_frames + 1} frames or more"
            return {"error": f"oversized: {what}, {too_many(max_file)}"}
        if shape not in (None, (frame.width, frame.height)):
            return {"error": f"its picture size changes at frame {num_frames}"}
        shape, before_last, last = (frame.width, frame.height), last, frame
        if num_frames & (num_frames - 1) == 0:  # 0, 1, 2, 4, 8, ...: to compare the readers with
            kept[num_frames] = frame_reader.upright(frame, converter)
        num_frames += 1
    if last is None:
        return {"error": f"no frame can be decoded ({damage or 'it holds none, or they are encrypted'})"}
    if before_last is not None:
        kept.pop(num_frames - 1, None)  # decord is never asked for the last frame
        kept[num_frames - 2] = frame_reader.upright(before_last, converter)
    height, width, _ = kept[0].shape
    return {
        "num_frames": num_frames,
        "header_frames": declared,
        "width": width,
        "height": height,
        "fps": float(stream.average_rate or stream.guessed_rate or 0),
        "reader": _agreed_reader(path, num_frames, kept, last.format.name),
    }


def too_many(max_file: int) -> str:
    """What a file holds more of than it may."""
    return f"more pixels than data.max_file_pixels {max_file}"


def _declared_frames(path: Path, stream: av.video.VideoStream) -> int:
    """How many frames the header counts; 0 where it does not say. FFmpeg corrects that of an AVI by its size."""
    with path.open("rb") as file:
        start = file.read(AVI_TOTAL_FRAMES + 4)
    is_avi = start[:4] == b"RIFF" and start[8:12] == b"AVI " and start[24:28] == b"avih"
    return max(stream.frames, int.from_bytes(start[AVI_TOTAL_FRAMES:], "little") if is_avi else 0)


def _until_error(container: av.container.InputContainer) -> Iterator[av.VideoFrame | str]:
    """Frames up to the first damage, then its description: those frames are what a reader can deliver."""
    try:
        for packet in container.demux(frame_reader.video_stream(container)):
            if packet.has_sidedata("encryption_info"):
                raise ValueError("its video is encrypted")
            yield from packet.decode()
    except (av.FFmpegError, OSError, ValueError) as error:
        yield _reason(error)


def _agreed_reader(path: Path, num_frames: int, kept: dict[int, np.ndarray], pixel_format: str) -> str:
    """Chooses decord where it has the same number of frames and the same pixels, also when it seeks backwards.

    On real MPEG-4 files the two FFmpeg versions may round a few blocks differently, by up to two levels of 255: PyAV
    reads those, so that every clip of a file comes from one decoder.
    """
    if frame_reader.decord is None or pixel_format not in frame_reader.DECORD_PIXEL_FORMATS:
        return "av"
    try:
        video = frame_reader.open_decord(path)
        if len(video) != num_frames:
            return "av"
        theirs = video.get_batch(sorted(kept, reverse=True)).asnumpy()
        same = np.array_equal(theirs, np.stack([kept[i] for i in sorted(kept, reverse=True)]))
    except (RuntimeError, IndexError, ValueError, frame_reader.decord.DECORDError):
        return "av"
    return "decord" if same else "av"


def _reason(error: BaseException) -> str:
    text = frame_reader.describe(error)
    if "Cannot allocate memory" in text:
        return "decoding needs more memory than data.probe_memory_mb allows"
    # "[Errno 1094995529] Invalid data found when processing input: '/long/path'" -> "Invalid data found ..."
    text = text.split("] ", 1)[-1].split(": '", 1)[0]
    return f"unreadable: {text}"


def _set_limit(name: str, most: int) -> bool:
    """Whether the system takes a limit of this process; macOS, for one, refuses that of memory."""
    try:
        resource.setrlimit(getattr(resource, name), (most, most))
    except (OSError, ValueError):
        return False
    return True


def main() -> None:
    """Serves requests {"path", "max_frame_pixels", "max_file_pixels"} until stdin ends; argument: memory cap in MB."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # decoders that print must not disturb the answers
    limit = int(sys.argv[1]) * 2**20
    refused = [name for name, most in (("RLIMIT_AS", limit), ("RLIMIT_CORE", 0)) if not _set_limit(name, most)]
    print(json.dumps({"ready": True, "refused": refused}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        result = check(Path(request["path"]), request["max_frame_pixels"], request["max_file_pixels"])
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
