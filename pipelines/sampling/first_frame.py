"""Image-to-video: a given picture -> the latent of the keyframe, which the diffusion transformer then keeps."""

import torch
from einops import rearrange
from torch import Tensor

from latte.diffusion import Parts
from latte.latent_layout import KEYFRAME, LatentLayout
from vae.interface import VideoAutoencoder


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
