"""Component exchange between two videos: the keyframe of one moves like the other, and the other way round."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from pipelines.data.pictures import film_strip, label_columns, label_rows, scale_to, tile, write_png
from pipelines.data.video_file import to_float, to_uint8, write_gif, write_video
from pipelines.data.video_sources import VideoSource, find_sources
from pipelines.inputs.experiment import Experiment
from pipelines.parts.reconstruct.folders import check_cache, printable, results_folder
from pipelines.run.folder import StageFolder
from pipelines.run.ranks import choose_device
from vae.interface import Latents, VideoAutoencoder, crop
from vae.registry import load_autoencoder

EXCHANGE_OPTIONS = ("exchange", "exchange_frames", "resolution")
LARGEST_SIDE = 360  # pixels of the short side: exchanges are looked at side by side
TILE_HEIGHT, STRIP_HEIGHT, STRIP_FRAMES = 160, 112, 7  # TILE_HEIGHT: of the GIF, and of the mp4 at least
PIECE_FRAMES = 16
NAMES = ("A", "B")
ROWS = {  # label -> part of the latents: the video that it comes from; without a residual, the prediction alone
    "A": None,
    "B": None,
    "A moved as B": {"keyframe": 0, "motion": 1},
    "A moved as B, residual B": {"keyframe": 0, "motion": 1, "residual": 1},
    "B moved as A": {"keyframe": 1, "motion": 0},
    "B moved as A, residual A": {"keyframe": 1, "motion": 0, "residual": 0},
}


def exchange_components(config: Experiment, vae_path: Path) -> None:
    """exchange.mp4, exchange.gif and exchange.png of the two files of reconstruct.exchange, unless they are there.

    Both are resized and cropped to the smaller common size (short side at most LARGEST_SIDE) and cut to the shorter.
    ValueError where a file cannot be read or the autoencoder does not code motion.
    """
    options = config.reconstruct
    sources = [readable(config, file) for file in options.exchange]
    names = ["exchange", *(Path(file).stem for file in options.exchange)]
    path, settings, inputs = results_folder(config, names, EXCHANGE_OPTIONS, {"vae": vae_path})
    inputs |= {name: {"path": str(source.path), "hash": source.sha256}
               for name, source in zip(NAMES, sources, strict=True)}  # fmt: skip
    folder = StageFolder(config.run.root, config.run.name, path)
    with folder.open(settings, inputs):
        if not folder.done:
            model = load_autoencoder(vae_path).to(choose_device(config.run.device))
            height, width = common_size(sources)
            num_frames = min(source.num_frames for source in sources)
            videos = [read_to_size(source, height, width, num_frames) for source in sources]
            shown = exchanged(model, videos)
            write_pictures(folder.path, shown, min(source.fps for source in sources))
            folder.finish({"height": height, "width": width, "frames": num_frames})
        print(printable(f"reconstruct: {' and '.join(options.exchange)} exchanged in {folder.path / 'exchange.gif'}"))


def readable(config: Experiment, file: str) -> VideoSource:
    """One of the two files, checked; ValueError with the reason where it cannot be read."""
    if not Path(file).is_file():
        raise ValueError(f"reconstruct.exchange names {file!r}, which is no file; give two video files: [A,B]")
    options = config.reconstruct
    sources, unreadable = find_sources(
        file, config.data, options.resolution, options.exchange_frames, check_cache(config)
    )
    if unreadable:
        raise ValueError(f"reconstruct.exchange: {file} cannot be read ({unreadable[0].reason}); give another file")
    return sources[0]


def common_size(sources: Sequence[VideoSource]) -> tuple[int, int]:
    """Height and width that fit into both, short side at most LARGEST_SIDE."""
    height, width = min(s.height for s in sources), min(s.width for s in sources)
    scale = min(1.0, LARGEST_SIDE / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_to_size(source: VideoSource, height: int, width: int, num_frames: int) -> Tensor:
    """The first frames of a file, scaled until they cover the size, the middle cut out: (1, 3, t, h, w) in [-1, 1]."""
    pieces: list[Tensor] = []
    scale = max(height / source.height, width / source.width)
    size = (max(height, round(source.height * scale)), max(width, round(source.width * scale)))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    for frames_uint8 in source.pieces(PIECE_FRAMES):
        frames = rearrange(frames_uint8, "t h w c -> t c h w")
        resized = functional.interpolate(frames, size=size, mode="bicubic", antialias=True)
        pieces.append(rearrange(resized[:, :, top : top + height, left : left + width], "t c h w -> t h w c"))
        if sum(len(piece) for piece in pieces) >= num_frames:
            break
    return to_float(torch.cat(pieces)[:num_frames]).unsqueeze(0)


@torch.no_grad()
def exchanged(model: VideoAutoencoder, videos: Sequence[Tensor]) -> dict[str, Tensor]:
    """Every row of ROWS as (t, h, w, 3) uint8. videos: A and B, (1, 3, t, h, w) in [-1, 1] of one shape.

    ValueError for an autoencoder without keyframe, motion and residual.
    """
    encodings = [model.encode(video.to(model.device)) for video in videos]
    parts = set(encodings[0].latents)
    if not {"keyframe", "motion", "residual"} <= parts:
        raise ValueError(
            f"reconstruct.exchange needs an autoencoder that codes keyframe, motion and residual apart, this "
            f"{type(model).__name__} codes {', '.join(sorted(parts))}: name another with reconstruct.vae="
        )
    shown = {}
    for label, origin in ROWS.items():
        if origin is None:
            decoded = videos[NAMES.index(label)]
        else:
            # decode_prediction leaves the residual aside, but takes all parts
            latents: Latents = {part: encodings[origin.get(part, 0)].latents[part] for part in sorted(parts)}
            decode = model.decode if "residual" in origin else model.decode_prediction
            decoded = crop(decode(latents), encodings[0].clip_shape)
        shown[label] = to_uint8(decoded[0].cpu())
    return shown


def write_pictures(folder: Path, shown: dict[str, Tensor], fps: float) -> None:
    """The rows of ROWS as tiles in motion (mp4, GIF), and as film strips below each other (png)."""
    columns = 3  # a row per keyframe: A, its keyframe moved as B twice; then the same of B
    order = [label for name in NAMES for label in shown if label.startswith(name)]
    for file, height in (("exchange.mp4", max(shown["A"].shape[1], TILE_HEIGHT)), ("exchange.gif", TILE_HEIGHT)):
        videos = {label: scale_to(shown[label], height) for label in order}
        width = videos["A"].shape[2]
        lines = [order[start : start + columns] for start in range(0, len(order), columns)]
        tiles = [label_columns(tile([[videos[label] for label in line]]), line, width) for line in lines]
        write = write_gif if file.endswith(".gif") else write_video
        write(folder / file, torch.cat(tiles, dim=1), fps)
    strips = {label: film_strip(scale_to(shown[label], STRIP_HEIGHT), STRIP_FRAMES) for label in order}
    rows = tile([[strip.unsqueeze(0)] for strip in strips.values()])
    write_png(folder / "exchange.png", label_rows(rows, order, STRIP_HEIGHT)[0])
