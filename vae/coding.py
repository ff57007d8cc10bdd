"""Records of coding one clip with DeCo-VAE: what passes from chunk to chunk, one chunk, and views of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, repeat

from vae.decoupling import normalise_motion, predict, split_keyframe
from vae.gaussian import Gaussian, Generators
from vae.interface import ComponentPair, Latents
from vae.precision import at_least_fp32
from vae.scale_space_flow import enlarge_motion
from vae.tiling import Place

# What pictures show of a decoupled clip: `VideoAutoencoder.picture_rows`.
PICTURE_ROWS = {"keyframe": "pixels", "motion": "flow", "warped": "pixels", "residual": "difference"}


@dataclass
class CodingState:
    """What coding a clip carries from one chunk of frames to the next."""

    keyframe: torch.Tensor | None = None  # x_0, (b, 3, h, w)
    decoded_keyframe: torch.Tensor | None = None  # x^_0, (b, 3, h, w)
    # per network, and in it per tile: the last frames of its convolutions
    past: defaultdict[str, dict[Place, Any]] = field(default_factory=lambda: defaultdict(dict))


@dataclass
class Coding:
    """One chunk, as far as it is coded; a component is (b, 3, t, h, w), motion at its own resolution, or None: none."""

    video: torch.Tensor  # the chunk, (b, 3, t, h, w)
    frames: torch.Tensor  # those of them that motion and residual describe
    state: CodingState
    starts_clip: bool  # the chunk holds frame 0
    holds_first_frame: bool  # and motion and residual describe it too
    sample: bool  # latents are drawn; otherwise they are means
    generator: Generators
    posterior: dict[str, Gaussian] = field(default_factory=dict)
    latents: Latents = field(default_factory=dict)
    motion: torch.Tensor | None = None  # m, pixels and level
    decoded_motion: torch.Tensor | None = None  # m^
    prediction: torch.Tensor | None = None  # W(x^_0, m^)
    residual: torch.Tensor | None = None  # r
    decoded_residual: torch.Tensor | None = None  # r^
    reconstruction: torch.Tensor | None = None  # x^ with frame 0 where the chunk has it, not clipped

    def take(self, part: str, posterior: Gaussian) -> None:
        """Keep the posterior of a part, (b, c, t', h', w'), and the latent to go on with."""
        self.posterior[part] = posterior
        self.latents[part] = posterior.latent(self.sample, self.generator)  # DeCo-VAE Eq. 2

    def without_frames(self, shapes: Mapping[str, tuple[int, ...]]) -> Coding:
        """A single image: motion and residual are there, with no frames. shapes: (c, t', h', w') of every part."""
        self.prediction = self.residual = self.decoded_residual = at_least_fp32(self.frames)
        for part, shape in shapes.items():
            if part not in self.latents:
                empty = at_least_fp32(self.frames.new_zeros(self.frames.shape[0], *shape))
                self.posterior[part], self.latents[part] = Gaussian(empty, empty), empty
        return self

    def without_gradient(
        self, keyframe: torch.Tensor, motion: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x^_0 (b, 3, h, w) and m^ (b, 3, t, h, w) for a prediction in the closed loop: detached while M is frozen.

        The residual makes good what they lack, and both have their own losses (measured: a tenth less time per step for
        less than 0.1 dB, and a keyframe 0.9 dB better). M itself learns from the warp.
        """
        is_frozen = self.motion is not None and not self.motion.requires_grad
        return keyframe.detach(), motion.detach() if is_frozen else motion

    def with_first_frame(self, frames: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Put `first` (b, c, 1, h, w) in front of (b, c, t, h, w) where the chunk's components lack frame 0."""
        return torch.cat([first, frames], dim=2) if self.starts_clip and not self.holds_first_frame else frames


def start_chunk(
    video: torch.Tensor, state: CodingState, first_frame_latent: bool, sample: bool, generator: Generators
) -> Coding:
    """A chunk (b, 3, t, h, w) of a clip, nothing coded; the first one brings the keyframe.

    first_frame_latent: motion and residual describe frame 0 too.
    """
    starts_clip, frames = state.keyframe is None, video
    if starts_clip:
        state.keyframe, rest = split_keyframe(video)
        frames = video if first_frame_latent else rest
    return Coding(video, frames, state, starts_clip, starts_clip and first_frame_latent, sample, generator)


def as_frame(image: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) -> (b, c, 1, h, w)."""
    return rearrange(image, "b c h w -> b c 1 h w")


def component_pairs(coding: Coding, closed_loop: bool) -> dict[str, ComponentPair]:
    """Decoded components beside their targets; targets are detached, or the data would move towards its coding."""
    first = coding.holds_first_frame
    pairs = {"keyframe": ComponentPair(as_frame(coding.state.decoded_keyframe), as_frame(coding.state.keyframe), True)}
    if coding.motion is not None:
        target = normalise_motion(coding.motion.detach())
        pairs["motion"] = ComponentPair(normalise_motion(coding.decoded_motion), target, first)
    if closed_loop:  # r^ - r = x^ - x: the residual's component loss is the video's
        pairs["video"] = ComponentPair(coding.reconstruction, coding.video, True)
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
    num_frames, size = coding.prediction.shape[2], coding.state.keyframe.shape[-2:]
    images: dict[str, torch.Tensor] = {
        "keyframe": coding.state.keyframe,
        "decoded_keyframe": coding.state.decoded_keyframe,
    }
    first, decoded_first = (as_frame(image) for image in images.values())
    nothing = torch.zeros_like(coding.prediction)
    motion, decoded_motion = (
        nothing if x is None else enlarge_motion(x, size) for x in (coding.motion, coding.decoded_motion)
    )
    true_warped = predict(coding.state.keyframe, coding.motion, num_frames)
    shown = {  # name: (frames, what frame 0 is where these do not hold it)
        "motion": (motion, 0 * first),
        "decoded_motion": (decoded_motion, 0 * first),
        "residual": (coding.residual, 0 * first),
        "decoded_residual": (coding.decoded_residual, 0 * first),
        "warped": (true_warped, first),
        "decoded_warped": (coding.prediction, decoded_first),
    }
    frames = {name: coding.with_first_frame(x, start) for name, (x, start) in shown.items()}
    length = coding.reconstruction.shape[2]
    copies = {name: repeat(image, "b c h w -> b c t h w", t=length) for name, image in images.items()}
    return frames | copies | {"reconstruction": coding.reconstruction}
