"""The learning rate of every step: linear warm-up, then constant or a half cosine."""

import math

from pipelines.run.task import LoopConfig


def learning_rate(config: LoopConfig, step: int) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up, then constant or a half cosine down to zero."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "constant":
        return config.lr * warmup
    progress = max(0.0, (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1))
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
