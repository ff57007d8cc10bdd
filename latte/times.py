"""Which noise each stream of a training clip gets: one time for all, a clean keyframe, times of its own, an image.

Clips with a clean keyframe teach image-to-video, clips with independent times
every order in which a sampler may denoise the streams (Chen et al. 2024, diffusion forcing), images the keyframe alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latte.latent_layout import KEYFRAME
from latte.latte import Latte

Draws = Callable[[str], list[torch.Generator]]  # the name of a draw -> one CPU generator per sample
Times = Tensor | dict[str, Tensor]  # (b,) for all streams, or {stream: (b,)}; in [0, 1), negative = data
CLEAN = -1.0


@dataclass(frozen=True)
class StreamTimes:
    """The times of one batch on the CPU, and what of it is trained."""

    times: Times
    counted: dict[str, Tensor] = field(default_factory=dict)  # part: (b,), 0 where its loss is not counted; absent = 1
    is_image: Tensor | None = None  # (b,) bool: samples of which only the first frame is there; None = no sample


def draw_uniform(generators: Sequence[torch.Generator]) -> Tensor:
    """One uniform number in [0, 1) per sample, (b,)."""
    return torch.cat([torch.rand(1, generator=generator) for generator in generators])


def draw_times(model: Latte, generators: Sequence[torch.Generator]) -> Tensor:
    """Training times in [0, 1), (b,): logit-normal (Esser et al. 2024) for flow, else uniform."""
    if model.architecture.objective != "flow":
        return draw_uniform(generators)
    options = model.training_options
    normal = torch.cat([torch.randn(1, generator=generator) for generator in generators])
    return torch.sigmoid(options.time_mean + options.time_std * normal)


def draw_stream_times(model: Latte, draws: Draws) -> StreamTimes:
    """Times for a batch by the shares of `model.training_options`, each sample's kind from a draw of its own."""
    options = model.training_options
    shared = draw_times(model, draws("time"))
    if not (options.clean_keyframe_share or options.independent_times_share or options.image_share):
        return StreamTimes(shared)
    kind = draw_uniform(draws("component times"))  # the name is part of the random key: it stays
    is_image = kind >= 1 - options.image_share if options.image_share else None
    if not (options.clean_keyframe_share or options.independent_times_share):
        return StreamTimes(shared, is_image=is_image)
    is_clean = kind < options.clean_keyframe_share
    is_independent = ~is_clean & (kind < options.clean_keyframe_share + options.independent_times_share)
    times = {
        stream.name: torch.where(is_independent, draw_times(model, draws(f"time of {stream.name}")), shared)
        for stream in model.layout.streams
    }
    keyframe = model.layout.stream_of(KEYFRAME)
    times[keyframe] = torch.where(is_clean, CLEAN, times[keyframe])
    return StreamTimes(times, {KEYFRAME: (~is_clean).float()}, is_image)


def counted_share(model: Latte, part: str) -> float:
    """The share of training samples in which the loss of `part` is counted."""
    options = model.training_options
    begins_later = model.layout.of_image().parts[part][1] == 0
    return 1 - options.clean_keyframe_share * (part == KEYFRAME) - options.image_share * begins_later
