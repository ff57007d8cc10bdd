"""proxy_frechet_flow: the distribution of how things move, as a motion module sees it between successive frames."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from pipelines.metrics.proxy_latents import as_float

# (n, 3, 1, h, w) frames and (n, 3, h, w) references in [-1, 1] -> (n, 3, 1, h', w'): flow x and y in pixels, level
Estimate = Callable[[Tensor, Tensor], Tensor]
NAME = "proxy_frechet_flow"
NUM_PER_FRAME = 6
STILL_PIXELS = 0.02  # flow below this is rounding: a still clip is not minus infinity


class FlowFeatures:
    """Statistics of the flow from every frame to the one before it.

    estimate: a motion module. identity: hash of its weights.
    """

    dimensions: Mapping[str, int] = {NAME: 2 * NUM_PER_FRAME}

    def __init__(self, estimate: Estimate, identity: str, device: torch.device | str = "cpu") -> None:
        self.estimate, self.identity, self.device = estimate, identity, device

    @torch.inference_mode()
    def __call__(self, video_uint8: Tensor) -> dict[str, Tensor]:
        """(n, t, h, w, 3) uint8, t >= 3 -> (n, 12)."""
        video = as_float(video_uint8).to(self.device)
        num_clips = video.shape[0]
        frames = rearrange(video[:, :, 1:], "n c t h w -> (n t) c 1 h w")
        before = rearrange(video[:, :, :-1], "n c t h w -> (n t) c h w")
        motion = self.estimate(frames, before).float().cpu()
        return {NAME: flow_statistics(rearrange(motion, "(n t) c 1 h w -> n c t h w", n=num_clips))}

    def record(self) -> dict[str, Any]:
        """Distances in the flow of other weights are other numbers."""
        return {"motion_module": self.identity}


def flow_statistics(motion: Tensor) -> Tensor:
    """Mean and spread over time of six numbers per frame: log of the mean length, log of its spread over the frame,
    mean flow in x and in y, mean level, spread of the level.

    motion: (n, 3, t, h, w), t >= 2: flow x and y in pixels, level -> (n, 12).
    """
    flow, level = motion.split([2, 1], dim=1)
    length = rearrange(flow.norm(dim=1), "n t h w -> n t (h w)")
    level = rearrange(level, "n 1 t h w -> n t (h w)")
    per_frame = torch.stack(
        [
            (length.mean(dim=2) + STILL_PIXELS).log(),
            (length.std(dim=2) + STILL_PIXELS).log(),
            *flow.mean(dim=(3, 4)).unbind(1),
            level.mean(dim=2),
            level.std(dim=2),
        ],
        dim=2,
    )  # (n, t, 6)
    return torch.cat([per_frame.mean(dim=1), per_frame.std(dim=1)], dim=1)
