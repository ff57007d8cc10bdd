"""Self-supervised training of the motion module: warp one frame of a clip onto others, at random gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn

from vae.decoupling import split_keyframe
from vae.losses import psnr, total_variation
from vae.motion_module import MotionModule
from vae.objective import Draws
from vae.scale_space_flow import gaussian_volume, pad_to_multiple, warp


@dataclass(frozen=True)
class MotionLossConfig:
    """What the motion module is trained on."""

    frames_per_clip: int = 4  # frames per clip onto which the first one is warped, at random gaps
    smoothness: float = 0.003  # weight of the total variation of the flow
    coarse: float = 0.0  # weight of the same loss on blurred frames: only where plain shapes leave the flow at zero
    coarse_level: int = 3  # how much those are blurred, a level of the Gaussian volume (3 = 7.2 pixels)


class MotionTask:
    """Minimise L1(x_t, W(x_0, m_t)) over random gaps t, with a little smoothness of the flow.

    A batch is {"video": (b, 3, t, h, w) in [-1, 1], "index": [global indices], "path": [names for error messages]}.
    """

    stage = "train_motion"
    ema_player = "motion_module"
    best_metric = ("psnr_warp", "max")

    def __init__(
        self,
        model: MotionModule,
        losses: MotionLossConfig,
        batches: Callable[[int], Iterator[dict]],
        validation: Callable[[], Iterable[dict]],
        preview: Callable[[MotionModule, Path, int], None],
    ) -> None:
        """`batches(first_step)` yields training batches, `validation()` the same fixed batches every time."""
        self.players: dict[str, nn.Module] = {"motion_module": model}
        self.losses, self.batches, self.validation, self.preview = losses, batches, validation, preview

    def prepare_step(self, step: int) -> list[str]:
        """The one player is trained in every step."""
        return ["motion_module"]

    def parameter_groups(self, player: str) -> list[dict[str, Any]]:
        """One group: all parameters at the same rate."""
        return [{"params": list(self.players[player].parameters()), "lr_scale": 1.0}]

    def loss(self, player: str, batch: dict, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """L1 of the warp on a few random frames of each clip."""
        model = self.players["motion_module"]
        keyframe, frames = split_keyframe(batch["video"].to(next(model.parameters()).device))
        chosen = torch.stack([torch.randperm(frames.shape[2], generator=g) for g in draws("gaps")])
        chosen = chosen[:, : self.losses.frames_per_clip].to(frames.device)  # (b, n)
        clips = rearrange(torch.arange(len(frames), device=frames.device), "b -> b 1")
        target = rearrange(rearrange(frames, "b c t h w -> b t c h w")[clips, chosen], "b n c h w -> b c n h w")
        motion = model(target, keyframe)
        flow, level = motion.split([2, 1], dim=1)
        images = rearrange(target, "b c n h w -> (b n) c h w")
        blurred = rearrange(blur_to_level(images, self.losses.coarse_level), "(b n) c h w -> b c n h w", b=len(target))
        coarse = torch.cat([flow, torch.full_like(level, self.losses.coarse_level)], dim=1)
        terms = {
            "coarse_l1": (warp(keyframe, coarse) - blurred).abs().mean(),
            "warp_l1": (warp(keyframe, motion) - target).abs().mean(),
            "copy_l1": (rearrange(keyframe, "b c h w -> b c 1 h w") - target).abs().mean(),
            "total_variation": total_variation(flow),
            "mean_abs_flow_pixels": flow.detach().abs().mean(),
            "mean_level": level.detach().mean(),
        }
        loss = terms["warp_l1"] + self.losses.smoothness * terms["total_variation"]
        return loss + self.losses.coarse * terms["coarse_l1"], terms

    @torch.no_grad()
    def validate(self, model: MotionModule, step: int) -> dict[str, float]:
        """PSNR in dB of W(x_0, m), and of x_0 copied, over frames 1 .. t - 1 of the validation clips."""
        warped, copied = [], []
        for batch in self.validation():
            keyframe, frames = split_keyframe(batch["video"].to(next(model.parameters()).device))
            warped.append(psnr(warp(keyframe, model(frames, keyframe)), frames))
            copied.append(psnr(rearrange(keyframe, "b c h w -> b c 1 h w").expand_as(frames), frames))
        return {"psnr_warp": float(torch.cat(warped).mean()), "psnr_copy": float(torch.cat(copied).mean())}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Nothing beyond the model and its optimiser."""
        return {}

    def load_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to restore."""


def blur_to_level(image: torch.Tensor, level: int) -> torch.Tensor:
    """One slice of the Gaussian volume of (b, c, h, w): what `warp` reads at that level."""
    height, width = image.shape[-2:]
    return gaussian_volume(pad_to_multiple(image))[:, :, level, :height, :width]
