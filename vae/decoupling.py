"""Decouple a clip into keyframe, motion and residual, and recouple it (DeCo-VAE Eq. 4-8). Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange

from vae.motion_module import MotionModule
from vae.scale_space_flow import warp

# Motion is brought to about the spread of RGB before it is encoded (measured best on real clips).
FLOW_PIXELS_PER_UNIT = 5.0
LEVEL_CENTRE, LEVELS_PER_UNIT = 0.25, 2.0


@dataclass(frozen=True)
class Components:
    """What a clip is made of. Decoupling then recoupling is exact to rounding."""

    keyframe: torch.Tensor  # (b, 3, h, w) in [-1, 1]
    motion: torch.Tensor  # (b, 3, t, h, w): flow x, flow y in pixels, level index
    residual: torch.Tensor  # (b, 3, t, h, w)


def identity_motion(video: torch.Tensor) -> torch.Tensor:
    """No flow, sharpest level: (b, 3, t, h, w) zeros like `video`, fp32."""
    return torch.zeros_like(video, dtype=torch.float32)


def split_keyframe(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """video (b, 3, t, h, w) -> first frame (b, 3, h, w), the other frames (b, 3, t - 1, h, w)."""
    first, rest = video.split([1, video.shape[2] - 1], dim=2)
    return rearrange(first, "b c 1 h w -> b c h w"), rest


def estimate_motion(motion_module: MotionModule | None, video: torch.Tensor, keyframe: torch.Tensor) -> torch.Tensor:
    """M of Eq. 4 for every frame of `video`: (b, 3, t, h, w); without a module the keyframe is not moved at all."""
    if motion_module is None or video.shape[2] == 0:
        return identity_motion(video)
    return motion_module(video, keyframe)


def decouple(video: torch.Tensor, motion_module: MotionModule | None) -> Components:
    """Open loop, against the true keyframe. video: (b, 3, t, h, w) in [-1, 1]; frame 0 gets identity motion."""
    keyframe, rest = split_keyframe(video)
    first = identity_motion(video[:, :, :1])
    motion = torch.cat([first, estimate_motion(motion_module, rest, keyframe)], dim=2)
    prediction = warp(keyframe, motion)  # DeCo-VAE Eq. 5
    return Components(keyframe, motion, video - prediction)  # DeCo-VAE Eq. 6


def recouple(components: Components) -> torch.Tensor:
    """DeCo-VAE Eq. 8: x^_t = W(x^_0, m^_t) + r^_t, (b, 3, t, h, w)."""
    return warp(components.keyframe, components.motion) + components.residual


def normalise_motion(motion: torch.Tensor) -> torch.Tensor:
    """(b, 3, t, h, w) in pixels and levels -> the units in which motion is encoded (spread about that of RGB)."""
    flow, level = motion.split([2, 1], dim=1)
    return torch.cat([flow / FLOW_PIXELS_PER_UNIT, (level - LEVEL_CENTRE) / LEVELS_PER_UNIT], dim=1)


def denormalise_motion(motion: torch.Tensor) -> torch.Tensor:
    """Inverse of `normalise_motion`."""
    flow, level = motion.split([2, 1], dim=1)
    return torch.cat([flow * FLOW_PIXELS_PER_UNIT, level * LEVELS_PER_UNIT + LEVEL_CENTRE], dim=1)
