"""Where a video gets new keyframes: after so many frames, and where the warp of the keyframe fails (scene cuts)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange

from vae.decoupling import predict
from vae.interface import VideoAutoencoder
from vae.scale_space_flow import SIZE_MULTIPLE

FRAMES_AT_A_TIME = 16
DECISION_SIZE = 64  # pixels of the short side on which frames are compared
# What a cut is, in dB of `prediction_gain_db`; chosen on 9592 frames of real clips and 450 joints of two of them.
CUT_GAIN_DB = 1.0  # neither the warped keyframe nor the frame before explains the frame by more
SUDDEN_GAIN_DB, SUDDEN_DROP_DB = 6.0, 6.0  # or the frame before explains less, and this much less than just before
NUM_GAINS_BEFORE = 4  # frames that "just before" means
# Added to variance and error, in units of [-1, 1]: a flat frame that is predicted as well as 8 bits allow is predicted
# well (28 dB), so that black frames do not ask for one keyframe after the other.
VARIANCE_FLOOR, ERROR_FLOOR = 0.1**2, (1 / 255) ** 2


@dataclass(frozen=True)
class GopConfig:
    """Where keyframes are placed."""

    max_frames: int = 0  # a new keyframe after this many frames (1 + 4n waste nothing); 0: no limit
    adaptive: bool = False  # also a new keyframe where the warp fails: at scene cuts, and below min_gain_db
    min_gain_db: float = -3.0  # variance of a frame over the error of its warped keyframe, below which the warp fails

    def __post_init__(self) -> None:
        if self.max_frames < 0:
            raise ValueError(f"gop.max_frames is {self.max_frames}, expected 0 (no limit) or more")


def prediction_gain_db(frames: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """10 log10(variance of a frame / mean squared error of its prediction), in dB: 0 = no better than the mean colour.

    frames, prediction: (1, 3, t, h, w) in [-1, 1]. Returns (t,).
    """
    frames, prediction = frames.float(), prediction.float()
    variance = frames.var(dim=(3, 4), correction=0).mean(dim=1)  # (1, t)
    error = (frames - prediction).square().mean(dim=(1, 3, 4))  # (1, t)
    return rearrange(10 * torch.log10((variance + VARIANCE_FLOOR) / (error + ERROR_FLOOR)), "1 t -> t")


def split_gops(
    model: VideoAutoencoder, frames: Iterable[torch.Tensor], gop: GopConfig
) -> Iterator[tuple[int, torch.Tensor]]:
    """Cut a video at the borders of its GOPs: (number of the GOP's first frame, some of its frames), in order.

    frames: (b, 3, any n, h, w) in [-1, 1], yielded as (b, 3, n, h, w); ValueError where gop.adaptive and b is not 1.
    """
    warp_test = WarpTest(model, gop.min_gain_db) if gop.adaptive else None
    gop_start = position = 0
    for piece in frames:
        while piece.shape[2]:
            length = min(piece.shape[2], FRAMES_AT_A_TIME)
            if gop.max_frames:
                length = min(length, gop_start + gop.max_frames - position)
            num_kept = warp_test.num_predictable(piece[:, :, :length]) if warp_test else length
            kept, piece = piece.split([num_kept, piece.shape[2] - num_kept], dim=2)
            if num_kept:
                yield gop_start, kept
            position += num_kept
            if num_kept < length or position - gop_start == gop.max_frames:
                gop_start = position
                if warp_test:
                    warp_test.forget_keyframe()


class WarpTest:
    """Watches whether a GOP's keyframe still predicts the frames, which it sees shrunk and in order.

    It fails at a cut: neither W(x_0, M(x_t, x_0)) nor the frame before explains the frame, or the frame before suddenly
    explains far less than it did; and where the prediction is worse than none, as when the camera has slowly left the
    keyframe behind. Models without a motion module are judged by the keyframe itself.
    """

    def __init__(self, model: VideoAutoencoder, min_gain_db: float) -> None:
        modules = model.motion_modules()
        self.motion_module = modules[0] if modules else None
        self.min_gain_db = min_gain_db
        self.forget_keyframe()

    def forget_keyframe(self) -> None:
        """The next frame is a keyframe."""
        self.keyframe: torch.Tensor | None = None  # (1, 3, h, w), shrunk
        self.before: torch.Tensor | None = None  # the newest frame of the GOP, (1, 3, 1, h, w), shrunk
        self.gains_before: list[float] = []  # what the newest frames gained from the frame before each, dB

    @torch.no_grad()
    def num_predictable(self, frames: torch.Tensor) -> int:
        """How many of (1, 3, t, h, w) come before the first failure; the first frame without a keyframe is one."""
        if frames.shape[0] != 1:
            raise ValueError(f"adaptive keyframes need one video at a time, got a batch of {frames.shape[0]}")
        small = shrink(frames)
        num_keyframes = int(self.keyframe is None)
        if self.keyframe is None or self.before is None:
            self.before = small[:, :, :1]
            self.keyframe = rearrange(self.before, "b c 1 h w -> b c h w")
        motion = None if self.motion_module is None else self.motion_module(small, self.keyframe)
        warped = predict(self.keyframe, motion, small.shape[2])
        before = torch.cat([self.before, small[:, :, :-1]], dim=2)
        gains = zip(prediction_gain_db(small, warped).tolist(), prediction_gain_db(small, before).tolist(), strict=True)
        for index, (gain_warped, gain_before) in list(enumerate(gains))[num_keyframes:]:
            if self._fails(gain_warped, gain_before):
                return index
            self.gains_before = [*self.gains_before, gain_before][-NUM_GAINS_BEFORE:]
        self.before = small[:, :, -1:]
        return small.shape[2]

    def _fails(self, gain_warped: float, gain_before: float) -> bool:
        is_new = max(gain_warped, gain_before) < CUT_GAIN_DB
        drop = min(self.gains_before, default=gain_before) - gain_before
        is_sudden = gain_before < SUDDEN_GAIN_DB and drop > SUDDEN_DROP_DB
        return is_new or is_sudden or gain_warped < self.min_gain_db


def shrink(video: torch.Tensor) -> torch.Tensor:
    """Average (b, 3, t, h, w) down to a short side of about DECISION_SIZE pixels, or less; multiples of 16."""
    factor = min(1.0, DECISION_SIZE / min(video.shape[-2:]))
    size = [max(SIZE_MULTIPLE, SIZE_MULTIPLE * round(side * factor / SIZE_MULTIPLE)) for side in video.shape[-2:]]
    images = rearrange(video, "b c t h w -> (b t) c h w")
    return rearrange(F.interpolate(images, size=size, mode="area"), "(b t) c h w -> b c t h w", b=len(video))
