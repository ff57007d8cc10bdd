"""The precision in which a stage computes."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a stage's `precision` option. ValueError for an unknown one."""
    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(DTYPES)}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
