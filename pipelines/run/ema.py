"""Averaged weights (EMA): what is validated and published, and what later stages use.

`ema_snapshots.py` holds the averages whose length is chosen after training.
"""

from collections.abc import Iterable

import torch

from pipelines.run.sharding import local


class AveragedWeights:
    """An exponential moving average of a list of parameters.

    has_warmup: a lower decay in the first updates, so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float, has_warmup: bool) -> None:
        self.parameters = list(parameters)
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.decay, self.has_warmup, self.num_updates = decay, has_warmup, 0

    @torch.no_grad()
    def update(self) -> None:
        """average = decay average + (1 - decay) weights; of what is frozen, the weights themselves."""
        self.num_updates += 1
        decay = warm_decay(self.decay, self.num_updates) if self.has_warmup else self.decay
        pairs = list(zip(self.averages, self.parameters, strict=True))
        for average, frozen in (pair for pair in pairs if not pair[1].requires_grad):
            local(average).copy_(local(frozen))
        moving = [(local(average), local(weight)) for average, weight in pairs if weight.requires_grad]
        torch._foreach_lerp_([average for average, _ in moving], [weight for _, weight in moving], 1 - decay)


def warm_decay(decay: float, num_updates: int) -> float:
    """The decay of update n = 1, 2, ...: n / (n + 9) until that reaches `decay`; the first takes the weights whole."""
    return min(num_updates / (num_updates + 9), decay) if num_updates > 1 else 0.0
