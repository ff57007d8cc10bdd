"""Maps named latent parts to the streams that Latte reads, and back: `unpack(pack(z)) == z`.

A stream is a block of frames that shares one patch embedding and one output head; its parts lie side by side on the
channel axis. Everything is derived from the shapes of the parts, so the layout knows nothing about the VAE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import reduce, repeat
from torch import Tensor

Shape = tuple[int, int, int, int]  # channels, frames, height, width
LAYOUTS = ("keyframe_first", "channel", "tokens")
KEYFRAME = "keyframe"


@dataclass(frozen=True)
class Stream:
    """One block of latent frames; `first_time` is the latent time of its first frame (the keyframe's is 0)."""

    name: str
    parts: tuple[str, ...]
    channels: int
    frames: int
    height: int
    width: int
    first_time: int = 0


@dataclass(frozen=True)
class LatentLayout:
    """The streams of one set of parts; build it with `LatentLayout.build`."""

    name: str
    parts: Mapping[str, Shape]
    streams: tuple[Stream, ...]

    @staticmethod
    def build(name: str, parts: Mapping[str, Sequence[int]]) -> "LatentLayout":
        """Lay out `parts` {part: (channels, frames, height, width)}.

        `keyframe_first`: the keyframe is a stream of its own, the other parts with equal frame counts share streams
        that follow it in time (a keyframe of several frames shares its time axis with them, aligned at the end).
        `channel`: all parts on the channel axis of one stream. A keyframe of one frame is repeated over all frames, so
        it carries the same noise everywhere and its predictions are averaged; a part that is one frame shorter than the
        stream gets a zero frame in front, which `unpack` drops and therefore no loss sees.
        `tokens`: every part is a stream of its own at its own latent times, aligned as in `keyframe_first`.
        A single part is one stream under every name. Parts without frames (a clip of one image) take no tokens.
        Raises ValueError for an unknown layout and for shapes that it cannot place.
        """
        shapes: dict[str, Shape] = {}
        for part, (channels, frames, height, width) in parts.items():
            shapes[part] = (int(channels), int(frames), int(height), int(width))
        present = {part: shape for part, shape in shapes.items() if shape[1] > 0}
        if name not in LAYOUTS:
            raise ValueError(f"latte.layout is {name!r}, expected one of {', '.join(LAYOUTS)}.")
        if not present:
            raise ValueError(f"no latent part has a frame, got shapes {shapes}: encode clips with the VAE first.")
        if len({shape[2:] for shape in present.values()}) > 1:
            raise ValueError(f"all latent parts must share one height and width, got {shapes}: use another VAE.")
        if len(present) == 1:
            streams = [_stream(tuple(present), present)]
        elif name == "channel":
            streams = [_channel_stream(present)]
        else:
            streams = _streams_in_time(present, share=name == "keyframe_first")
        return LatentLayout(name=name, parts=shapes, streams=tuple(streams))

    def stream_of(self, part: str) -> str:
        """The name of the stream that holds `part`; raises ValueError for a part that takes no tokens."""
        for stream in self.streams:
            if part in stream.parts:
                return stream.name
        raise ValueError(f"no stream of layout {self.name} holds a part {part!r}: its parts are {sorted(self.parts)}.")

    def of_image(self) -> "LatentLayout":
        """The layout of one still image: the streams of this layout that begin at latent time 0, cut to that time.

        A clip's latents at time 0 are what its first frame alone is coded into (the autoencoders are causal), so the
        same weights serve images: training on images and clips together means that a share of the samples goes through
        the model as `image_parts` in this layout, with the tokens of one latent frame and no others to attend to.
        """
        parts = {part: (shape[0], self._frames_at_start(part), *shape[2:]) for part, shape in self.parts.items()}
        streams = tuple(replace(stream, frames=1) for stream in self.streams if stream.first_time == 0)
        return LatentLayout(name=self.name, parts=parts, streams=streams)

    def image_parts(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{part: (b, c, t, h, w)} -> {part: (b, c, 1, h, w)} of the first frame alone; (b, c, 0, h, w) where a part
        begins later."""
        return {part: latents[part].narrow(2, 0, self._frames_at_start(part)) for part in self.parts}

    def _frames_at_start(self, part: str) -> int:
        """1 when the first frame of `part` lies at latent time 0, else 0."""
        stream = next((stream for stream in self.streams if part in stream.parts), None)
        if stream is None or stream.first_time:
            return 0
        return int(part == KEYFRAME or self.parts[part][1] == stream.frames)

    def pack(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{part: (b, c, t, h, w)} -> {stream: (b, C, T, h, w)}."""
        return {
            stream.name: torch.cat([_to_frames(latents[part], part, stream) for part in stream.parts], dim=1)
            for stream in self.streams
        }

    def unpack(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{stream: (b, C, T, h, w)} -> {part: (b, c, t, h, w)}, the inverse of `pack`."""
        latents = {}
        for stream in self.streams:
            sizes = [self.parts[part][0] for part in stream.parts]
            for part, frames in zip(stream.parts, streams[stream.name].split(sizes, dim=1), strict=True):
                latents[part] = _from_frames(frames, part, self.parts[part][1])
        some = next(iter(latents.values()))
        for part, shape in self.parts.items():
            if part not in latents:  # a part without frames
                latents[part] = some.new_zeros(some.shape[0], *shape)
        return {part: latents[part] for part in self.parts}


def _stream(parts: tuple[str, ...], shapes: Mapping[str, Shape], frames: int = 0, first_time: int = 0) -> Stream:
    """The stream of `parts`, `frames` long (0 = as long as its first part)."""
    _, own_frames, height, width = shapes[parts[0]]
    channels = sum(shapes[part][0] for part in parts)
    return Stream("_".join(parts), parts, channels, frames or own_frames, height, width, first_time)


def _channel_stream(parts: Mapping[str, Shape]) -> Stream:
    """All parts on the channel axis; the keyframe of one frame stands for latent time 0 and the others follow it."""
    others = {part: shape[1] for part, shape in parts.items() if part != KEYFRAME}
    single_keyframe = KEYFRAME in parts and parts[KEYFRAME][1] == 1
    frames = max(others.values()) + 1 if single_keyframe else max(shape[1] for shape in parts.values())
    for part, own_frames in others.items():
        if own_frames not in (frames - 1, frames):
            raise ValueError(
                f"layout channel cannot place part {part!r} of {own_frames} frames in a stream of {frames} frames: "
                "use latte.layout=keyframe_first."
            )
    if KEYFRAME in parts and not single_keyframe and parts[KEYFRAME][1] != frames:
        raise ValueError(
            f"layout channel needs a keyframe of 1 or {frames} frames, got {parts[KEYFRAME][1]}: "
            "use latte.layout=keyframe_first."
        )
    return _stream(tuple(parts), parts, frames)


def _streams_in_time(parts: Mapping[str, Shape], share: bool) -> list[Stream]:
    """Streams in order of appearance, aligned at the clip's end; a keyframe of one frame lies before all others.

    `share`: the keyframe is a stream, and the other parts share one stream per frame count. Else one stream per part.
    """
    if share and KEYFRAME not in parts:
        raise ValueError(
            f"layout keyframe_first needs a part called keyframe, got {sorted(parts)}: use latte.layout=channel."
        )
    groups: dict[str, list[str]] = {}
    for part, shape in parts.items():
        groups.setdefault(f"{shape[1]} frames" if share and part != KEYFRAME else part, []).append(part)
    keyframe_frames = parts[KEYFRAME][1] if KEYFRAME in parts else 0
    others = [shape[1] for part, shape in parts.items() if part != KEYFRAME]
    end = max(keyframe_frames, max(others) + (keyframe_frames == 1))
    return [
        _stream(tuple(group), parts, first_time=0 if KEYFRAME in group else end - parts[group[0]][1])
        for group in groups.values()
    ]


def _to_frames(latent: Tensor, part: str, stream: Stream) -> Tensor:
    """Bring one part (b, c, t, h, w) to the stream's number of frames: repeat a single keyframe, pad others."""
    missing = stream.frames - latent.shape[2]
    if missing == 0:
        return latent
    if part == KEYFRAME:
        return repeat(latent, "b c 1 h w -> b c t h w", t=stream.frames)
    return torch.nn.functional.pad(latent, (0, 0, 0, 0, missing, 0))


def _from_frames(frames: Tensor, part: str, num_frames: int) -> Tensor:
    """Undo `_to_frames`: average the copies of a repeated keyframe, drop the zero frame in front of others."""
    excess = frames.shape[2] - num_frames
    if excess == 0:
        return frames
    if part == KEYFRAME:  # mean of differences to the first copy: exactly that copy when all are equal
        first = frames.narrow(dim=2, start=0, length=1)
        return first + reduce(frames - first, "b c t h w -> b c 1 h w", "mean")
    return frames.narrow(dim=2, start=excess, length=num_frames)
