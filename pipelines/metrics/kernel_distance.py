"""Kernel distance (MMD) between feature sets, as in KID: no Gaussian is assumed, and few clips do not bias it."""

from torch import Tensor

from pipelines.metrics.declared import LOWER, Metric, declare

BLOCK = 1024  # rows of the kernel matrix that are in memory at once

declare(
    Metric(
        "kernel_distance_i3d",
        "Kernel distance (polynomial MMD, unbiased) of the features of fvd16: no Gaussian assumed, so it needs fewer "
        "videos. Lower is better; it may be a little below 0.",
        LOWER,
        compared_by="{fvd16_record[id]}",  # of the same features
    )
)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Unbiased squared MMD of Gretton et al. 2012 (Eq. 3) under KID's kernel k(x, y) = (x y / d + 1)^3.

    real: (m, d), fake: (n, d), any float type; m, n >= 2. Over all pairs, block by block, in fp64. Its expectation is 0
    for two samples of one distribution, so that it may be slightly negative. Binkowski et al. 2018, section 4.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"a kernel distance needs 2 clips on either side, got {len(real)} and {len(fake)}; add clips")
    real, fake = real.double().cpu(), fake.double().cpu()
    within = sum(_kernel_sum(side, side, skip_diagonal=True) / (len(side) * (len(side) - 1)) for side in (real, fake))
    between = _kernel_sum(real, fake, skip_diagonal=False) / (len(real) * len(fake))
    return within - 2 * between


def _kernel_sum(a: Tensor, b: Tensor, skip_diagonal: bool) -> float:
    total = 0.0
    for rows, start in zip(a.split(BLOCK), range(0, len(a), BLOCK), strict=True):
        kernel = (rows @ b.T / a.shape[1] + 1) ** 3
        total += kernel.sum().item()
        if skip_diagonal:
            total -= kernel.diagonal(offset=start).sum().item()
    return total
