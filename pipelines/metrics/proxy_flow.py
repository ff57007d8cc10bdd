"""proxy_frechet_flow: the distribution of how strongly things move between successive frames, as a motion module sees
it, and of what its motion leaves unexplained.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from pipelines.metrics.declared import ITS_RECORD, LOWER, PROXIES, Metric, declare
from pipelines.metrics.proxy_latents import as_float

# (n, 3, 1, h, w) frames and (n, 3, h, w) references in [-1, 1] -> (n, 3, 1, h', w'): flow x and y in pixels, level
Estimate = Callable[[Tensor, Tensor], Tensor]
Warp = Callable[[Tensor, Tensor], Tensor]  # references and such a motion -> the predicted frames, (n, 3, 1, h, w)
NAME = "proxy_frechet_flow"
NUM_PER_FRAME = 6
STILL_PIXELS, SHARP_LEVELS, SMALLEST_ENERGY = 0.02, 0.01, 1e-4  # rounding: a still clip is not minus infinity

declare(
    Metric(
        NAME,
        "PROXY: Fréchet distance to held-out clips in statistics of the flow that the run's motion module sees between "
        "successive frames, and of what the flow leaves unexplained.",
        LOWER,
        ITS_RECORD,
        PROXIES,
    )
)


class FlowFeatures:
    """Statistics of the flow between every frame and the one before it.

    estimate: a motion module. warp: applies its motion. identity: hash of its weights.
    """

    dimensions: Mapping[str, int] = {NAME: 2 * NUM_PER_FRAME}

    def __init__(self, estimate: Estimate, warp: Warp, identity: str, device: torch.device | str = "cpu") -> None:
        self.estimate, self.warp, self.identity, self.device = estimate, warp, identity, device

    @torch.inference_mode()
    def __call__(self, video_uint8: Tensor) -> dict[str, Tensor]:
        """(n, t, h, w, 3) uint8, t >= 3 -> (n, 12)."""
        video = as_float(video_uint8).to(self.device)
        frames = rearrange(video[:, :, 1:], "n c t h w -> (n t) c 1 h w")
        before = rearrange(video[:, :, :-1], "n c t h w -> (n t) c h w")
        motion = self.estimate(frames, before)
        unexplained = frames - self.warp(before, motion)
        motion, unexplained = (
            rearrange(part.float().cpu(), "(n t) c 1 h w -> n c t h w", n=len(video)) for part in (motion, unexplained)
        )
        return {NAME: flow_statistics(motion, unexplained)}

    def record(self) -> dict[str, Any]:
        """Distances in the flow of other weights are other numbers."""
        return {"motion_module": self.identity}


def flow_statistics(motion: Tensor, unexplained: Tensor) -> Tensor:
    """Mean and spread over time of six numbers per frame, all logarithms: mean length of the flow, its spread over the
    frame, mean level, its spread, energy of the spatial differences of flow and level, energy of what is unexplained.

    motion: (n, 3, t, h, w), t >= 2: flow x and y in pixels, level. unexplained: (n, 3, t, h', w'). Returns (n, 12).
    """
    flow, level = motion.split([2, 1], dim=1)
    length = rearrange(flow.norm(dim=1), "n t h w -> n t (h w)")
    level = rearrange(level, "n 1 t h w -> n t (h w)")
    down, across = (motion.diff(dim=axis).square().mean(dim=(1, 3, 4)) for axis in (3, 4))
    per_frame = torch.stack(
        [
            length.mean(dim=2) + STILL_PIXELS,
            length.std(dim=2) + STILL_PIXELS,
            level.mean(dim=2) + SHARP_LEVELS,
            level.std(dim=2) + SHARP_LEVELS,
            down + across + SMALLEST_ENERGY,
            unexplained.square().mean(dim=(1, 3, 4)) + SMALLEST_ENERGY,
        ],
        dim=2,
    ).log()  # (n, t, 6)
    return torch.cat([per_frame.mean(dim=1), per_frame.std(dim=1)], dim=1)
