"""Frames of one video file as numpy arrays, read by decord or PyAV; imports no torch, so probe workers stay small.

Policy, the same for both readers: frames are counted in presentation order whatever their time stamps (a variable frame
rate is not resampled), rotation metadata is applied, alpha is dropped, grey becomes RGB, 10 bit is reduced to 8.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

try:
    import decord
except ImportError:  # decord has wheels for Linux x86-64 only; PyAV reads everything that decord reads
    decord = None

# Formats for which decord's old FFmpeg and PyAV give the same bytes; with 10 bit or 4:4:4 decord's colours are wrong.
DECORD_PIXEL_FORMATS = ("yuv420p", "yuvj420p")


def choose_reader(path: Path) -> str:
    """Name of the reader for a file: "decord" where it is installed and gives PyAV's bytes, else "av".

    Raises:
        ValueError: the file holds no frame that can be decoded.
    """
    if decord is None:
        return "av"
    try:
        with av.open(str(Path(path).absolute())) as container:
            frame = next(decode(container))
            has_one = len(container.streams.video) == 1
        if frame.format.name not in DECORD_PIXEL_FORMATS or is_mirrored(frame) or not has_one:
            return "av"
        open_decord(path).get_batch([0])
        return "decord"
    except decord.DECORDError:
        return "av"
    except (av.FFmpegError, IndexError, StopIteration, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as video ({describe(error)}); repair or remove the file") from error


def frame_chunks(path: Path, indices: Sequence[int], reader: str, chunk: int = 32) -> Iterator[np.ndarray]:
    """Yields the frames `indices` (ascending, each once) in pieces, so that a long file never stands in memory whole.

    Args:
        path: video file.
        indices: strictly ascending frame numbers from 0.
        reader: "decord" or "av".
        chunk: most frames per piece.

    Yields:
        frames_uint8: (n, h, w, 3), n <= chunk.

    Raises:
        ValueError: the file cannot be read or ends before the last index.
    """
    read = _decord_chunks if reader == "decord" and decord is not None else _av_chunks
    num_read = 0
    try:
        for frames in read(Path(path).absolute(), list(indices), chunk):
            num_read += len(frames)
            yield frames
    except GeneratorExit:
        raise
    except Exception as error:  # the readers raise RuntimeError, DECORDError, IndexError, ValueError, FFmpegError, ...
        raise ValueError(
            f"{path}: reading with {reader} failed ({describe(error)}); restore the file or run prepare_data again"
        ) from error
    if num_read < len(indices):
        raise ValueError(
            f"{path} ended before frame {indices[num_read]} was read; restore the file or run prepare_data again"
        )


def read_frames(path: Path, indices: Sequence[int] | None = None, reader: str = "") -> np.ndarray:
    """Reads frames in the order asked for; None reads all of them.

    Args:
        path: video file.
        indices: frame numbers from 0, in any order, repeats allowed.
        reader: "decord", "av", or "" to choose by the file.

    Returns:
        frames_uint8: (t, h, w, 3).

    Raises:
        ValueError: the file cannot be read or has fewer frames.
    """
    reader = reader or choose_reader(path)
    if indices is None:
        indices = range(count_frames(path, reader))
    wanted = sorted(set(indices))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"{path}: got frame numbers {list(indices)[:5]}, expected at least one and none below 0")
    frames = np.concatenate(list(frame_chunks(path, wanted, reader)))
    return frames[np.searchsorted(wanted, indices)]


def count_frames(path: Path, reader: str) -> int:
    """Number of frames that the reader delivers; PyAV decodes them all, because headers can be wrong."""
    if reader == "decord" and decord is not None:
        return len(open_decord(path))
    with av.open(str(Path(path).absolute())) as container:
        return sum(1 for _ in decode(container))


def open_decord(path: Path) -> "decord.VideoReader":
    # One thread: background decoding grows memory without bound. Short-lived readers: a long-lived one leaks.
    return decord.VideoReader(str(Path(path).absolute()), ctx=decord.cpu(0), num_threads=1)


def upright(frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    """The frame as (h, w, 3) uint8 RGB, turned and mirrored as its display matrix says, to whole quarters.

    converter: one for all frames of a file. A new one for each, which `to_ndarray` makes, takes 2 ms.
    """
    rgb = converter.reformat(frame, format="rgb24").to_ndarray()
    x_by_x, y_by_x, x_by_y, y_by_y = display_matrix(frame)
    if abs(x_by_x) + abs(y_by_y) >= abs(y_by_x) + abs(x_by_y):
        return rgb[:: -1 if y_by_y < 0 else 1, :: -1 if x_by_x < 0 else 1]
    return rgb.swapaxes(0, 1)[:: -1 if y_by_x < 0 else 1, :: -1 if x_by_y < 0 else 1]


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """How a player moves the picture: (xx, yx, xy, yy) in x' = xx x + xy y and y' = yx x + yy y."""
    stored: Any = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return 1, 0, 0, 1
    numbers = np.frombuffer(bytes(stored), np.int32).tolist()
    return numbers[0], numbers[1], numbers[3], numbers[4]


def is_mirrored(frame: av.VideoFrame) -> bool:
    """Whether a player shows the mirror image, which decord does not."""
    x_by_x, y_by_x, x_by_y, y_by_y = display_matrix(frame)
    return x_by_x * y_by_y - x_by_y * y_by_x < 0


def video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The stream that a player shows: none that is an attached picture, such as a cover; None where there is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    best = container.streams.best("video")
    return best if best in streams else next(iter(streams), None)


def decode(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """The frames that a player shows, as they are coded. ValueError where there is no video."""
    stream = video_stream(container)
    if stream is None:
        raise ValueError("it has no video stream")
    return container.decode(stream)


def describe(error: BaseException) -> str:
    """First line of an exception of any reader, short enough for a table."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 120 else text[:117] + "..."


def _decord_chunks(path: Path, indices: list[int], chunk: int) -> Iterator[np.ndarray]:
    video = open_decord(path)
    if indices[-1] >= len(video) - 1:
        # On some UCF-101 files decord returns memory that it never wrote as the last frame, now and then.
        yield from _av_chunks(path, indices, chunk)
        return
    for start in range(0, len(indices), chunk):
        yield video.get_batch(indices[start : start + chunk]).asnumpy()


def _av_chunks(path: Path, indices: list[int], chunk: int) -> Iterator[np.ndarray]:
    # Decoding from the first frame on is exact for every container; seeking is not.
    wanted, frames, converter = set(indices), [], VideoReformatter()
    with av.open(str(path)) as container:
        for number, frame in enumerate(decode(container)):
            if number in wanted:
                frames.append(upright(frame, converter))
            if len(frames) == chunk:
                yield np.stack(frames)
                frames = []
            if number >= indices[-1]:
                break
    if frames:
        yield np.stack(frames)
