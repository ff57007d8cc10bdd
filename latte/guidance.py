"""Classifier-free guidance (Ho & Salimans 2022) on every channel of every part, inside an interval of noise levels."""

import torch
from torch import Tensor

from latte.diffusion import NUM_TIMESTEPS, Parts, Prediction, predict
from latte.latte import Latte


def guided_prediction(
    model: Latte, noisy: Parts, timestep: float, labels: Tensor, scale: float, interval: tuple[float, float]
) -> Prediction:
    """uncond + scale (cond - uncond) where low <= timestep / 1000 <= high, elsewhere the conditional prediction.

    noisy: {part: (b, c, t, h, w)}; timestep in [0, 1000]; labels: (b,). Outside the interval no unconditional pass runs
    (Kynkaanniemi et al. 2024). The variance that an epsilon model predicts stays the conditional one.
    """
    timesteps = torch.full(labels.shape, timestep, dtype=torch.float32, device=labels.device)
    low, high = interval
    if scale == 1 or not low <= timestep / NUM_TIMESTEPS <= high:
        return predict(model, noisy, timesteps, labels)
    both = predict(
        model,
        {part: torch.cat([x, x]) for part, x in noisy.items()},
        torch.cat([timesteps, timesteps]),
        torch.cat([labels, torch.full_like(labels, model.num_classes)]),
    )
    size = [len(labels), len(labels)]
    mean = {}
    for part, value in both.mean.items():
        conditional, unconditional = value.split(size)
        mean[part] = torch.lerp(unconditional, conditional, scale)
    return Prediction(mean, {part: value.split(size)[0] for part, value in both.variance.items()})
