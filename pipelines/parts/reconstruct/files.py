"""One video file through an autoencoder, in constant memory: videos, a figure, scores of it and of its components."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.data.pictures import write_png
from pipelines.data.video_file import VideoWriter, to_float, to_uint8
from pipelines.data.video_sources import VideoSource
from pipelines.inputs.options.reconstruct import VIDEO_CODEC, ReconstructSection
from pipelines.parts.reconstruct.file_scores import ComponentScores, ProtocolRun, Scoring
from pipelines.parts.reconstruct.pictures import FigureFrames, side_by_side
from pipelines.run.folder import write_json
from vae.interface import TEMPORAL_COMPRESSION, VideoAutoencoder
from vae.streaming import component_stream, latent_values

# The components of a chunk are most of the memory: about 0.2 kB per pixel and frame.
PIXELS_PER_CHUNK, LARGEST_CHUNK = 1_600_000, 16
PIXELS_WITHOUT_TILES = 1_500_000  # larger frames go through the networks in tiles, which takes a fifth more time
TILE_SIZE, TILE_OVERLAP = 512, 64
FIGURE_DECIBELS = {  # row of the figure -> the score that is written on it
    "decoded keyframe": "psnr_keyframe",
    "warp": "psnr_warp_only",
    "decoded warp": "psnr_warp_decoded",
}


@torch.no_grad()
def reconstruct_file(
    model: VideoAutoencoder, source: VideoSource, folder: Path, options: ReconstructSection, scoring: Scoring
) -> None:
    """Write side_by_side.mp4, reconstruction.mp4, components.png and scores.json into `folder`, which exists.

    Raises ReadError when the file cannot be read to its end.
    """
    started = time.perf_counter()
    has_motion = bool(model.motion_modules())
    chunk_frames = options.chunk_frames or automatic_chunk(source)
    set_tiles(model, source, options.tile_size)
    protocols = {protocol.name: ProtocolRun(protocol, scoring, source, folder) for protocol in scoring.protocols}
    components, figure, keyframes = ComponentScores(), FigureFrames(source.num_frames, has_motion), list[int]()
    with ExitStack() as stack:
        videos = {name: stack.enter_context(VideoWriter(folder / f"{name}.mp4", source.fps, codec))
                  for name, codec in VIDEO_CODEC.items() if name in options.save}  # fmt: skip
        for protocol in protocols.values():
            protocol.open(stack)
        frames = float_pieces(source, chunk_frames, model.device)
        for piece in component_stream(model, frames, options.gop, chunk_frames):
            shown = {name: x.float().cpu() for name, x in piece.components.items()}
            original, reconstruction = (to_uint8(shown[name][0]) for name in ("original", "reconstruction"))
            for protocol in protocols.values():
                protocol.add(original, reconstruction)
            components.add(shown, piece.start == piece.gop_start)
            figure.add(piece.start, shown)
            if "reconstruction" in videos:
                videos["reconstruction"].write(reconstruction)
            if "side_by_side" in videos:
                videos["side_by_side"].write(side_by_side(shown, has_motion))
            keyframes += [piece.start] * (piece.start == piece.gop_start)
    for protocol in protocols.values():
        protocol.finish(chunk_frames)
    save_features(protocols, folder)
    record = describe(model, source, keyframes) | {
        "scores": {name: protocol.scorer.scores() for name, protocol in protocols.items()},
        "components": components.scores(),
        "psnr_per_frame": {
            name: [round(value, 3) for value in protocol.scorer.values["psnr"]] for name, protocol in protocols.items()
        },
    }
    if "figure" in options.save:
        decibels = {row: record["components"][score] for row, score in FIGURE_DECIBELS.items()}
        decibels["reconstruction"] = record["scores"][scoring.protocols[0].name]["psnr"]
        write_png(folder / "components.png", figure.figure(decibels, keyframes))
    record["seconds"] = round(time.perf_counter() - started, 2)
    write_json(folder / "scores.json", record)


def automatic_chunk(source: VideoSource) -> int:
    """Frames coded at once: fewer where they are large, a multiple of 4."""
    fitting = PIXELS_PER_CHUNK // (source.height * source.width)
    return min(max(fitting // TEMPORAL_COMPRESSION, 1) * TEMPORAL_COMPRESSION, LARGEST_CHUNK)


def set_tiles(model: VideoAutoencoder, source: VideoSource, tile_size: int) -> None:
    """What reconstruct.tile_size means: 0 = whole frames, -1 = tiles for large frames, else tiles of this size."""
    if tile_size == 0 or (tile_size < 0 and source.height * source.width <= PIXELS_WITHOUT_TILES):
        model.disable_tiling()
    elif tile_size < 0:
        model.enable_tiling(TILE_SIZE, TILE_OVERLAP)
    else:
        model.enable_tiling(tile_size, tile_size // 4)


def float_pieces(source: VideoSource, piece_frames: int, device: torch.device) -> Iterator[Tensor]:
    """The file's frames as the autoencoder takes them: (1, 3, n, h, w) in [-1, 1] on `device`."""
    for frames_uint8 in source.pieces(piece_frames):
        yield to_float(frames_uint8).unsqueeze(0).to(device)


def describe(model: VideoAutoencoder, source: VideoSource, keyframes: Sequence[int]) -> dict[str, object]:
    """The file, its keyframes and how many numbers its latents hold: in all, per frame, per number of its pixels."""
    lengths = [end - start for start, end in zip(keyframes, [*keyframes[1:], source.num_frames], strict=True)]
    values = latent_values(model, lengths, (source.height, source.width))
    return {
        "file": source.name,
        "sha256": source.sha256,
        "frames": source.num_frames,
        "frames_in_file": source.file_frames,
        "height": source.height,
        "width": source.width,
        "fps": source.fps,
        "decord_reads_it": source.random_reader == "decord",
        "keyframes": list(keyframes),
        "latent_values": values,
        "latent_values_per_frame": round(values / source.num_frames, 1),
        "latent_values_per_pixel_value": values / math.prod((source.num_frames, source.height, source.width, 3)),
    }


def save_features(protocols: dict[str, ProtocolRun], folder: Path) -> None:
    """I3D features of both sides under each protocol, (clips, 400), for rFVD over all files."""
    features = {
        f"{name}/{side}": clips.features
        for name, protocol in protocols.items()
        for side, clips in zip(("original", "reconstruction"), protocol.scorer.clips, strict=True)
        if clips is not None
    }
    if features:
        save_file(features, folder / "features.safetensors")
