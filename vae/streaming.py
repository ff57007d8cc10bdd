"""Whole videos through an autoencoder, frame by frame in constant memory, cut into groups of pictures (GOPs).

A GOP has its own keyframe and is coded alone: its latents can be decoded without those of any other GOP.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import torch

from vae.gaussian import Gaussian
from vae.interface import TEMPORAL_COMPRESSION, Encoding, Latents, VideoAutoencoder, crop
from vae.keyframe_placement import GopConfig, split_gops

CHUNK_FRAMES = 16
WHOLE_GOP_FRAMES = 17  # what a model that is not causal codes at once
Item = TypeVar("Item")


@dataclass(frozen=True)
class CodedPiece:
    """Some consecutive frames of a video, coded."""

    gop_start: int  # number of the frame that is the keyframe of these
    start: int  # number of the first frame; equal to gop_start: the piece holds the keyframe
    num_frames: int  # frames before padding
    size: tuple[int, int]  # height and width before padding
    posterior: dict[str, Gaussian]
    latents: Latents


@dataclass(frozen=True)
class ComponentPiece:
    """Some consecutive frames of a video and what the autoencoder made of them."""

    gop_start: int  # number of the frame that is the keyframe of these
    start: int  # number of the first frame
    components: dict[str, torch.Tensor]  # of `component_chunks`, and "original"; (b, 3, n, h, w) each


def rechunk(frames: Iterable[torch.Tensor], chunk_frames: int = CHUNK_FRAMES) -> Iterator[torch.Tensor]:
    """Cut or join (b, 3, any n, h, w) to 1 + chunk_frames, then chunk_frames at a time; the last may be shorter.

    chunk_frames: a multiple of 4, so that chunks end where latent frames end. ValueError otherwise.
    """
    if chunk_frames < TEMPORAL_COMPRESSION or chunk_frames % TEMPORAL_COMPRESSION:
        raise ValueError(f"chunk_frames is {chunk_frames}, expected a multiple of {TEMPORAL_COMPRESSION} above 0")
    waiting: list[torch.Tensor] = []
    missing = 1 + chunk_frames
    for piece in frames:
        while piece.shape[2]:
            taken, piece = piece.split([min(missing, piece.shape[2]), max(piece.shape[2] - missing, 0)], dim=2)
            waiting.append(taken)
            missing -= taken.shape[2]
            if not missing:
                yield torch.cat(waiting, dim=2)
                waiting, missing = [], chunk_frames
    if waiting:
        yield torch.cat(waiting, dim=2)


@torch.no_grad()
def encode_stream(
    model: VideoAutoencoder,
    frames: Iterable[torch.Tensor],
    gop: GopConfig | None = None,
    chunk_frames: int = CHUNK_FRAMES,
) -> Iterator[CodedPiece]:
    """Encode a video of any length and size, GOP by GOP and in each chunk by chunk.

    frames: (b, 3, n, h, w) in [-1, 1], any n each time, all of one size; b = 1 where gop.adaptive.
    gop: where keyframes are placed; None: one for the whole video, or every 17 frames where `model` is not causal.
    """
    for gop_start, chunks in _gop_chunks(model, frames, gop, chunk_frames):
        start = gop_start
        encodings: Iterable[Encoding] = model.encode_chunks(chunks) if model.causal else map(model.encode, chunks)
        for encoding in encodings:
            num_frames, *size = encoding.clip_shape
            yield CodedPiece(gop_start, start, num_frames, tuple(size), encoding.posterior, encoding.latents)
            start += num_frames


@torch.no_grad()
def decode_stream(model: VideoAutoencoder, pieces: Iterable[CodedPiece]) -> Iterator[torch.Tensor]:
    """Decode what `encode_stream` gave: (b, 3, num_frames, h, w) for each piece, not clipped.

    Any GOPs may be left out, but of each that is there all pieces up to the last wanted one must be there, in order.
    """
    for _, group in groupby(pieces, key=lambda piece: piece.gop_start):
        taken: deque[CodedPiece] = deque()
        latents = (piece.latents for piece in _noted(_complete(group), taken))
        for video in model.decode_chunks(latents) if model.causal else map(model.decode, latents):
            piece = taken.popleft()
            yield crop(video, (piece.num_frames, *piece.size))


@torch.no_grad()
def component_stream(
    model: VideoAutoencoder,
    frames: Iterable[torch.Tensor],
    gop: GopConfig | None = None,
    chunk_frames: int = CHUNK_FRAMES,
) -> Iterator[ComponentPiece]:
    """Every component of a video before and after coding, for pictures and scores; arguments as `encode_stream`.

    The frames themselves stand beside the components as "original"; everything has their number and size.
    """
    for gop_start, chunks in _gop_chunks(model, frames, gop, chunk_frames):
        start = gop_start
        taken: deque[torch.Tensor] = deque()
        chunks = _noted(chunks, taken)
        for components in model.component_chunks(chunks) if model.causal else map(model.decode_components, chunks):
            original = taken.popleft()
            yield ComponentPiece(gop_start, start, {"original": original} | components)
            start += original.shape[2]


def latent_values(model: VideoAutoencoder, gop_lengths: Iterable[int], size: tuple[int, int]) -> int:
    """Numbers that one video's latents hold when it is coded in GOPs of these frames; size: its height and width.

    What further keyframes cost: latent_values(model, [17, 17], size) - latent_values(model, [34], size).
    """
    height, width = (length + -length % model.size_multiple for length in size)
    padded = (length + -(length - 1) % TEMPORAL_COMPRESSION for length in gop_lengths)
    shapes = (model.latent_shapes((length, height, width)) for length in padded)
    return sum(math.prod(shape) for parts in shapes for shape in parts.values())


def _gop_chunks(
    model: VideoAutoencoder, frames: Iterable[torch.Tensor], gop: GopConfig | None, chunk_frames: int
) -> Iterator[tuple[int, Iterator[torch.Tensor]]]:
    """(number of its keyframe, chunks that `model` can code one after the other) of every GOP, each to be used up."""
    gop = gop or GopConfig()
    if not model.causal and not gop.max_frames:
        gop = replace(gop, max_frames=WHOLE_GOP_FRAMES)
    frames = (piece.to(model.device) for piece in frames)
    for gop_start, group in groupby(split_gops(model, frames, gop), key=itemgetter(0)):
        pieces = (piece for _, piece in group)
        yield gop_start, rechunk(pieces, chunk_frames) if model.causal else iter([torch.cat(list(pieces), dim=2)])


def _complete(group: Iterable[CodedPiece]) -> Iterator[CodedPiece]:
    """The pieces of one GOP; ValueError where one is missing."""
    expected: int | None = None
    for piece in group:
        expected = piece.gop_start if expected is None else expected
        if piece.start != expected:
            raise ValueError(
                f"the pieces of the GOP that starts at frame {piece.gop_start} lack frame {expected}: "
                "give them in order, from its keyframe on"
            )
        expected += piece.num_frames
        yield piece


def _noted(items: Iterable[Item], taken: deque[Item]) -> Iterator[Item]:
    """Pass on what a model takes and note it. (itertools.tee would keep up to 57 chunks alive.)"""
    for item in items:
        taken.append(item)
        yield item
