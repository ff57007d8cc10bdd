"""How compact a cloud of latent vectors is: numbers for the latent maps (DeCo-VAE Figure 1b shows pictures only)."""

import torch
from torch import Tensor


def standardise(points: Tensor) -> Tensor:
    """(n, d) -> every dimension with mean 0 and variance 1, as Latte sees latents; constant ones become 0."""
    centred = points.double() - points.double().mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    return torch.where(deviation > 0, centred / deviation.clamp(min=1e-12), 0.0)


def compactness(points: Tensor) -> dict[str, float]:
    """Numbers that do not change when all points are scaled, moved or turned together.

    mean_distance: mean |z - mean| / sqrt(total variance), in (0, 1]. It is 1 where all points are equally far from the
        centre, as those of a Gaussian of many dimensions nearly are (about 1 - 1 / (4 d)); it is less the more points
        lie near the centre and the fewer far out.
    effective_rank: exp of the entropy of the covariance's eigenvalues divided by their sum (Roy & Vetterli 2007), in
        [1, d]: how many directions the cloud really uses. It is at most n - 1: compare clouds of equally many points.
    effective_rank_share: the same divided by d.
    variance_in_two: part of the variance in the first two principal components: what a PCA map shows.

    points: (n, d), n >= 2.
    """
    centred = points.double() - points.double().mean(dim=0)
    num_points, dimensions = centred.shape
    total = centred.square().sum() / num_points
    if total <= 0:
        return {"mean_distance": 1.0, "effective_rank": 1.0, "effective_rank_share": 1 / dimensions,
                "variance_in_two": 1.0}  # fmt: skip
    shares = torch.linalg.svdvals(centred).square()
    shares = shares / shares.sum()
    rank = torch.special.entr(shares).sum().exp().item()
    return {
        "mean_distance": (centred.norm(dim=1).mean() / total.sqrt()).item(),
        "effective_rank": rank,
        "effective_rank_share": rank / dimensions,
        "variance_in_two": shares[:2].sum().item(),
    }


def principal_components(points: Tensor, count: int) -> Tensor:
    """(n, d) -> (n, min(count, d, n)) coordinates on the directions of largest variance, each with a fixed sign."""
    centred = points.double() - points.double().mean(dim=0)
    left, values, directions = torch.linalg.svd(centred, full_matrices=False)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign().squeeze(1)
    return (left * values * largest)[:, :count]
