"""Where autocast must not reach: pixels, motion and moments are fp32 at least; fp64 stays fp64."""

import torch


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """x as fp32, or as it is where it is fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
