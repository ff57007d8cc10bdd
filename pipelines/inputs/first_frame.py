"""Image-to-video: a given picture -> the latent of the keyframe, which the diffusion transformer then keeps."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from latte.diffusion import Parts
from latte.latent_layout import KEYFRAME, LatentLayout
from pipelines.data.clip_dataset import crop, resize_short_side
from pipelines.data.split_lists import NOT_VIDEO
from pipelines.data.video_file import read_video
from pipelines.data.video_sources import list_files
from pipelines.run.hashes import hash_file
from vae.interface import VideoAutoencoder

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def choose_first_frames(reference: str, classes: Sequence[str | None]) -> list[Path]:
    """The file whose first frame each video begins with.

    reference: an image or video for all, or a folder of them, used in turn; a class that has a folder of its name there
    takes its own. classes: that of each video. Raises ValueError where there is no file.
    """
    root = Path(reference)
    if root.is_file():
        return [root] * len(classes)
    files = first_frame_files(root)
    chosen: list[Path] = []
    turns: dict[str | None, int] = {}
    for name in classes:
        own = [file for file in files if name in file.relative_to(root).parts[:-1]] or files
        turn = turns[name] = turns.get(name, -1) + 1
        chosen.append(own[turn % len(own)])
    return chosen


def first_frame_files(root: Path) -> list[Path]:
    """The images and videos below a folder, in order of their names; ValueError where there are none."""
    names = sorted(list_files(root)) if root.is_dir() else []
    files = [root / name for name in names if Path(name).suffix.lower() in IMAGES or not is_no_video(name)]
    if not files:
        raise ValueError(f"sample.first_frame is {str(root)!r}, but there is no image or video: name a file or folder")
    return files


def is_no_video(name: str) -> bool:
    """Whether a file name says that there is no video in it."""
    return Path(name).suffix.lower() in NOT_VIDEO or Path(name).name.startswith(".")


def hash_first_frames(reference: str) -> str:
    """Identifies what `sample.first_frame` names: the content of a file, or names and contents of a folder's files."""
    root = Path(reference)
    if root.is_file():
        return hash_file(root)
    listing = [f"{file.relative_to(root)} {hash_file(file)}\n" for file in first_frame_files(root)]
    return hashlib.sha256("".join(listing).encode()).hexdigest()


def read_first_frame(file: Path, resolution: int) -> Tensor:
    """The image, or first frame of the video, as a clip's frame: (resolution, resolution, 3) uint8, its centre.

    Raises ValueError for a file that is neither.
    """
    if file.suffix.lower() in IMAGES:
        try:
            frame_uint8 = torch.from_numpy(np.array(Image.open(file).convert("RGB")))
        except OSError as error:
            raise ValueError(
                f"{file} cannot be read as an image ({error}): choose another sample.first_frame"
            ) from error
    else:
        frame_uint8 = read_video(file, [0])[0]
    return crop(resize_short_side(frame_uint8.unsqueeze(0), resolution), resolution, 0.5, 0.5)[0]


def frame_size(vae: VideoAutoencoder, layout: LatentLayout) -> tuple[int, int]:
    """Height and width in pixels of the clips that a layout's latents were made from."""
    _, _, height, width = next(iter(layout.parts.values()))
    return height * vae.size_multiple, width * vae.size_multiple


@torch.no_grad()
def encode_first_frame(vae: VideoAutoencoder, frame: Tensor) -> Parts:
    """frame: (b, 3, h, w) in [-1, 1] -> {"keyframe": (b, c, 1, h', w')} in the autoencoder's own scale, on the CPU.

    Raises ValueError for an autoencoder that does not code a keyframe by itself.
    """
    latents = vae.encode(rearrange(frame, "b c h w -> b c 1 h w")).latents
    if KEYFRAME not in latents:
        raise ValueError(
            f"a first frame needs an autoencoder with a keyframe, but {type(vae).__name__} has the parts "
            f"{', '.join(latents)}: leave the first frame out, or use another autoencoder"
        )
    return {KEYFRAME: latents[KEYFRAME].float().cpu()}
