"""Records of coding one clip with DeCo-VAE: what passes from chunk to chunk, one chunk, and views of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange, repeat

from vae.decoupling import normalise_motion, predict
from vae.gaussian import Gaussian
from vae.interface import ComponentPair, Latents
from vae.scale_space_flow import enlarge_motion


@dataclass
class CodingState:
    """What coding a clip carries from one chunk of frames to the next."""

    keyframe: torch.Tensor | None = None  # x_0, (b, 3, h, w)
    decoded_keyframe: torch.Tensor | None = None  # x^_0, (b, 3, h, w)
    # per network and place of the tile: the last frames of its convolutions
    past: dict[tuple[str, tuple[int, int]], dict] = field(default_factory=dict)


@dataclass
class Coding:
    """One chunk, coded. The components are (b, 3, t, h, w), motion at its own resolution; None where there are none."""

    keyframe: torch.Tensor  # x_0, (b, 3, h, w)
    decoded_keyframe: torch.Tensor  # x^_0
    starts_clip: bool  # the chunk holds frame 0
    holds_first_frame: bool  # and motion and residual have a frame for it
    posterior: dict[str, Gaussian] = field(default_factory=dict)
    latents: Latents = field(default_factory=dict)
    motion: torch.Tensor | None = None  # m, pixels and level
    decoded_motion: torch.Tensor | None = None  # m^
    prediction: torch.Tensor | None = None  # W(x^_0, m^)
    residual: torch.Tensor | None = None  # r
    decoded_residual: torch.Tensor | None = None  # r^
    reconstruction: torch.Tensor | None = None  # x^ with frame 0 where the chunk has it, not clipped

    def with_first_frame(self, frames: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Put `first` (b, c, 1, h, w) in front of (b, c, t, h, w) where the chunk's components lack frame 0."""
        return torch.cat([first, frames], dim=2) if self.starts_clip and not self.holds_first_frame else frames


def as_frame(image: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) -> (b, c, 1, h, w)."""
    return rearrange(image, "b c h w -> b c 1 h w")


def component_pairs(coding: Coding, video: torch.Tensor, closed_loop: bool) -> dict[str, ComponentPair]:
    """Decoded components beside their targets; targets are detached, or the data would move towards its coding."""
    first = coding.holds_first_frame
    pairs = {"keyframe": ComponentPair(as_frame(coding.decoded_keyframe), as_frame(coding.keyframe), True)}
    if coding.motion is not None:
        target = normalise_motion(coding.motion.detach())
        pairs["motion"] = ComponentPair(normalise_motion(coding.decoded_motion), target, first)
    if closed_loop:  # r^ - r = x^ - x: the residual's component loss is the video's
        pairs["video"] = ComponentPair(coding.reconstruction, video, True)
    else:
        pairs["residual"] = ComponentPair(coding.decoded_residual, coding.residual.detach(), first)
    return pairs


def coding_statistics(coding: Coding) -> dict[str, torch.Tensor]:
    """Scalars watched against drift into blur when the motion module is trained along."""
    statistics = {"mean_abs_residual": coding.residual.detach().abs().mean()}
    if coding.motion is not None:
        flow, level = coding.motion.detach().split([2, 1], dim=1)
        statistics |= {"mean_abs_flow_pixels": flow.abs().mean(), "mean_level": level.mean()}
    return statistics


def shown_components(coding: Coding) -> dict[str, torch.Tensor]:
    """Every component before and after coding, (b, 3, t, h, w) each: what pictures and scores show.

    Keys: keyframe, motion (pixels, level), residual, warped = W(x_0, m), and the same with `decoded_` in front
    (decoded_warped = W(x^_0, m^)), and reconstruction.
    """
    assert coding.reconstruction is not None and coding.prediction is not None, "coded and decoded"
    num_frames, size = coding.prediction.shape[2], coding.keyframe.shape[-2:]
    first, decoded_first = as_frame(coding.keyframe), as_frame(coding.decoded_keyframe)
    nothing = torch.zeros_like(coding.prediction)
    motion, decoded_motion = (
        nothing if x is None else enlarge_motion(x, size) for x in (coding.motion, coding.decoded_motion)
    )
    true_warped = predict(coding.keyframe, coding.motion, num_frames)
    shown = {  # name: (frames, what frame 0 is where these do not hold it)
        "motion": (motion, 0 * first),
        "decoded_motion": (decoded_motion, 0 * first),
        "residual": (coding.residual, 0 * first),
        "decoded_residual": (coding.decoded_residual, 0 * first),
        "warped": (true_warped, first),
        "decoded_warped": (coding.prediction, decoded_first),
    }
    frames = {name: coding.with_first_frame(x, start) for name, (x, start) in shown.items()}
    for name, image in (("keyframe", coding.keyframe), ("decoded_keyframe", coding.decoded_keyframe)):
        frames[name] = repeat(image, "b c h w -> b c t h w", t=coding.reconstruction.shape[2])
    return frames | {"reconstruction": coding.reconstruction}
