"""Mean and standard deviation per latent channel in fp64, gathered shard by shard and merged in a fixed order."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor


def channel_statistics(mean: Tensor) -> dict[str, Any]:
    """Count, mean and sum of squared deviations per channel of (n, c, t, h, w), in fp64."""
    values = rearrange(mean.double(), "n c t h w -> c (n t h w)")
    count = values.shape[1]
    centre = values.mean(dim=1) if count else values.new_zeros(len(values))
    squares = (values - rearrange(centre, "c -> c 1")).square().sum(dim=1)
    return {"count": count, "mean": centre.tolist(), "squares": squares.tolist()}


def merge_statistics(statistics: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of all shards together (Chan, Golub, LeVeque 1979), in shard order."""
    count = 0
    mean = torch.zeros(len(statistics[0]["mean"]), dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for shard in statistics:
        if not shard["count"]:
            continue
        total, offset = count + shard["count"], torch.tensor(shard["mean"], dtype=torch.float64) - mean
        squares += torch.tensor(shard["squares"], dtype=torch.float64) + offset**2 * count * shard["count"] / total
        mean += offset * shard["count"] / total
        count = total
    return mean, (squares / count).sqrt() if count else torch.ones_like(mean)
