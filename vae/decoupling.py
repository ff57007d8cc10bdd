"""Decouple a clip into keyframe, motion and residual, and recouple it (DeCo-VAE Eq. 5-8). Pure functions."""

from __future__ import annotations

import torch
from einops import rearrange, repeat

from vae.precision import at_least_fp32
from vae.scale_space_flow import warp

# Motion is brought to about the spread of RGB before it is encoded (measured best on real clips).
FLOW_PIXELS_PER_UNIT = 5.0
LEVEL_CENTRE, LEVELS_PER_UNIT = 0.25, 2.0


def split_keyframe(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """video (b, 3, t, h, w) -> first frame (b, 3, h, w), the other frames (b, 3, t - 1, h, w)."""
    first, rest = video.split([1, video.shape[2] - 1], dim=2)
    return rearrange(first, "b c 1 h w -> b c h w"), rest


def predict(keyframe: torch.Tensor, motion: torch.Tensor | None, num_frames: int) -> torch.Tensor:
    """Motion-predicted frames (b, 3, t, h, w), fp32, from a keyframe (b, 3, h, w) and motion (b, 3, t, h, w).

    motion: flow x, flow y in pixels and level index; None: the keyframe is repeated t = num_frames times, not moved.
    """
    if motion is None:
        return repeat(at_least_fp32(keyframe), "b c h w -> b c t h w", t=num_frames)
    return warp(keyframe, motion)  # DeCo-VAE Eq. 5: warp the keyframe


def decouple(frames: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Residual of `frames` against their prediction, (b, 3, t, h, w).

    Open loop (the paper): the prediction is made from the true keyframe and motion. Closed loop (every video codec): it
    is made from the decoded ones, so that the residual holds what the decoder will really lack.
    """
    return frames - prediction  # DeCo-VAE Eq. 6


def recouple(prediction: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Frames from prediction and residual, (b, 3, t, h, w): the inverse of `decouple` for the same prediction."""
    return prediction + residual  # DeCo-VAE Eq. 8


def normalise_motion(motion: torch.Tensor) -> torch.Tensor:
    """(b, 3, t, h, w) in pixels and levels -> the units in which motion is encoded (spread about that of RGB)."""
    centre, unit = _motion_units(motion)
    return (motion - centre) / unit


def denormalise_motion(motion: torch.Tensor) -> torch.Tensor:
    """Inverse of `normalise_motion`."""
    centre, unit = _motion_units(motion)
    return motion * unit + centre


def _motion_units(motion: torch.Tensor) -> list[torch.Tensor]:
    return [
        rearrange(motion.new_tensor(values), "c -> c 1 1 1")
        for values in ((0.0, 0.0, LEVEL_CENTRE), (FLOW_PIXELS_PER_UNIT, FLOW_PIXELS_PER_UNIT, LEVELS_PER_UNIT))
    ]
