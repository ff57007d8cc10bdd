"""The precision in which a stage computes."""

import torch

PRECISIONS = ("fp32", "bf16")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a stage's `precision` option, one of PRECISIONS."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
