"""Guidance inside an interval of noise levels: away from the prediction without a class (Ho & Salimans 2022), or from
that of a weaker model (autoguidance, Karras et al. 2024), on every channel of every part unless told otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latte.diffusion import Parts, Prediction, predict
from latte.latte import Latte
from latte.noise_schedule import NUM_TIMESTEPS
from latte.times import Times


@dataclass(frozen=True)
class Guidance:
    """How strongly, where and from what the prediction is pushed away; scale 1 = not at all."""

    scale: float = 1.0
    low: float = 0.0  # noise levels, from 0 (data) to 1 (noise); with several, the highest counts
    high: float = 1.0
    channels: int = 0  # only the first channels of every stream; 0 = all
    weak_model: Latte | None = None  # None = the model itself without a class
    internal_scale: float = 1.0  # away from the model's own early head, before the class counts; 1 = not at all
    internal_low: float = 0.0  # only above this noise level

    def guides_internally_at(self, timesteps: Mapping[str, float]) -> bool:
        """Whether the early head is needed at {part: timestep}."""
        return self.internal_scale != 1 and max(timesteps.values()) / NUM_TIMESTEPS >= self.internal_low

    def guides_at(self, timesteps: Mapping[str, float]) -> bool:
        """Whether a second prediction is needed at {part: timestep} (Kynkaanniemi et al. 2024: not at every level)."""
        return self.scale != 1 and self.low <= max(timesteps.values()) / NUM_TIMESTEPS <= self.high


def guided_prediction(
    model: Latte, noisy: Parts, timesteps: Mapping[str, float], labels: Tensor, guidance: Guidance
) -> Prediction:
    """weak + scale (strong - weak) inside the interval, elsewhere the conditional prediction.

    Internal guidance (arXiv 2512.24176) changes the conditional prediction first: early + scale (final - early).

    noisy: {part: (b, c, t, h, w)}; timesteps: {part: in [0, 1000], negative = data}; labels: (b,). The variance that an
    epsilon model predicts stays the conditional one.
    """
    times = model_times(model, timesteps, labels)
    internally = guidance.guides_internally_at(timesteps)
    if not guidance.guides_at(timesteps):
        return sharpened(predict(model, noisy, times, labels, early=internally), guidance)
    if guidance.weak_model:
        strong = sharpened(predict(model, noisy, times, labels, early=internally), guidance)
        weak = predict(guidance.weak_model, noisy, model_times(guidance.weak_model, timesteps, labels), labels)
        pairs, variance = {part: (strong.mean[part], weak.mean[part]) for part in noisy}, strong.variance
    else:
        both_labels = torch.cat([labels, torch.full_like(labels, model.num_classes)])
        both = predict(
            model,
            {part: torch.cat([x, x]) for part, x in noisy.items()},
            model_times(model, timesteps, both_labels),
            both_labels,
            early=internally,
        )
        both = sharpened(both, guidance, len(labels))
        size = [len(labels), len(labels)]
        pairs = {part: value.split(size) for part, value in both.mean.items()}
        variance = {part: value.split(size)[0] for part, value in both.variance.items()}
    numbers = guided_channels(model, guidance.channels)
    mean = {}
    for part, (strong_mean, weak_mean) in pairs.items():
        number = [numbers[part], strong_mean.shape[1] - numbers[part]]
        (strong_part, rest), (weak_part, _) = strong_mean.split(number, dim=1), weak_mean.split(number, dim=1)
        mean[part] = torch.cat([torch.lerp(weak_part, strong_part, guidance.scale), rest], dim=1)
    return Prediction(mean, variance)


def sharpened(prediction: Prediction, guidance: Guidance, rows: int | None = None) -> Prediction:
    """Internal guidance on the first `rows` samples (all), where the early head's prediction is there."""
    if not prediction.early:
        return prediction
    mean = {
        part: torch.cat([torch.lerp(prediction.early[part][:rows], value[:rows], guidance.internal_scale), *rest])
        for part, value in prediction.mean.items()
        for rest in [[value[rows:]] if rows is not None else []]
    }
    return Prediction(mean, prediction.variance)


def model_times(model: Latte, timesteps: Mapping[str, float], labels: Tensor) -> Times:
    """{part: timestep} as the model wants it: (b,) where all are equal, else {stream: (b,)}; b from labels (b,)."""
    shown = {part: max(float(timestep), 0.0) for part, timestep in timesteps.items()}
    if len(set(shown.values())) == 1:
        return torch.full(labels.shape, next(iter(shown.values())), dtype=torch.float32, device=labels.device)
    return {
        stream.name: torch.full(labels.shape, shown[stream.parts[0]], dtype=torch.float32, device=labels.device)
        for stream in model.layout.streams
    }


def guided_channels(model: Latte, channels: int) -> dict[str, int]:
    """How many of each part's channels are guided: the first `channels` of every stream, 0 = all.

    4 is what the published sampling code of Latte and its descendants does, whatever the number of latent channels.
    """
    numbers = {part: shape[0] for part, shape in model.layout.parts.items()}
    for stream in model.layout.streams if channels else ():
        left = channels
        for part in stream.parts:
            numbers[part] = min(left, numbers[part])
            left -= numbers[part]
    return numbers
