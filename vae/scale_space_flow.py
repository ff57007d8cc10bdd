"""Scale-space flow: warp an image by a flow that may also blur (Agustsson et al., CVPR 2020). Pure functions.

Flow is in pixels, the scale is a level index of the Gaussian volume: 0 = sharp, 1 = blurred by sigma_0, ... NUM_LEVELS.
Everything here computes in fp32 (fp64 for fp64) whatever the autocast state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from vae.precision import at_least_fp32

SIGMA_0 = 1.5
NUM_LEVELS = 5  # blurred slices; with the sharp one the volume has NUM_LEVELS + 1
SIZE_MULTIPLE = 16  # 2 ** (NUM_LEVELS - 1): the coarsest slice halves the size four times


def pad_to_multiple(image: torch.Tensor, multiple: int = SIZE_MULTIPLE) -> torch.Tensor:
    """Replicate the right and bottom border of (b, c, h, w) until both sizes are multiples of `multiple`."""
    bottom, right = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


def gaussian_kernel(sigma: float = SIGMA_0) -> torch.Tensor:
    """One-dimensional normalised Gaussian of odd length 2 ceil(3 sigma) + 1."""
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma).square())
    return taps / taps.sum()


def blur(image: torch.Tensor, sigma: float = SIGMA_0) -> torch.Tensor:
    """Separable Gaussian blur of (b, c, h, w) with replicated borders."""
    channels = image.shape[1]
    taps = gaussian_kernel(sigma).to(image)
    radius = len(taps) // 2
    padded = F.pad(image, (radius, radius, radius, radius), mode="replicate")
    vertical = taps.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    horizontal = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(padded, vertical, groups=channels), horizontal, groups=channels)


def gaussian_volume(image: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w), sizes multiples of 16 -> (b, c, 6, h, w): the sharp image and five ever more blurred ones.

    As in CompressAI's ssf2020: every slice is the one before halved, blurred, and enlarged again, from the blurred
    image on. Effective sigmas 0, 1.5, 3.5, 7.2, 14.6, 29.2 pixels.
    """
    coarse = blur(image)
    slices = [image, coarse]
    for level in range(1, NUM_LEVELS):
        coarse = blur(F.avg_pool2d(coarse, 2))
        enlarged = coarse
        for _ in range(level):
            enlarged = F.interpolate(enlarged, scale_factor=2, mode="bilinear", align_corners=False)
        slices.append(enlarged)
    return torch.stack(slices, dim=2)


def sampling_grid(motion: torch.Tensor) -> torch.Tensor:
    """motion (b, 3, t, h, w) = flow x, flow y in pixels, level -> grid_sample coordinates (b, t, h, w, 3)."""
    height, width = motion.shape[-2:]
    sizes = motion.new_tensor([width, height, NUM_LEVELS + 1])
    axes = (torch.arange(length, device=motion.device, dtype=motion.dtype) for length in (height, width))
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    own_place = torch.stack([columns, rows, torch.zeros_like(rows)], dim=-1)  # (h, w, 3)
    at_rest = (2 * own_place + 1) / sizes - 1
    return torch.addcmul(at_rest, rearrange(motion, "b c t h w -> b t h w c"), 2 / sizes)


def enlarge_motion(motion: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Motion (b, 3, t, h', w') at a lower resolution -> (b, 3, t, h, w), bilinear; values are pixels of the image."""
    if tuple(motion.shape[-2:]) == tuple(size):
        return motion
    frames = rearrange(motion, "b c t h w -> b (c t) h w")
    frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return rearrange(frames, "b (c t) h w -> b c t h w", t=motion.shape[2])


def warp(image: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """W of DeCo-VAE Eq. 5: warp one image to t frames.

    image: (b, c, h, w).  motion: (b, 3, t, h, w) = flow x, flow y in pixels, level index in [0, 5], at the image's
    resolution or a lower one (then enlarged); a pixel of the result is read at its own position plus the flow.
    Returns (b, c, t, h, w), fp32. Zero flow at level 0 is identity.
    """
    height, width = image.shape[-2:]
    with torch.autocast(image.device.type, enabled=False):
        image, motion = at_least_fp32(image), enlarge_motion(at_least_fp32(motion), (height, width))
        # The frames of the motion are the depth of the grid: one volume serves all of them, without copies.
        volume = gaussian_volume(pad_to_multiple(image))  # (b, c, 6, H, W)
        bottom, right = (padded - size for padded, size in zip(volume.shape[-2:], (height, width), strict=True))
        if bottom or right:
            motion = F.pad(motion, (0, right, 0, bottom, 0, 0), mode="replicate")
        grid = sampling_grid(motion)  # (b, t, H, W, 3)
        warped = F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped[..., :height, :width]  # (b, c, t, h, w)
