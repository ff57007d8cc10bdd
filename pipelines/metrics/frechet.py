"""Frechet distance between Gaussians fitted to features, from mean and covariance that are gathered in a stream."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean and scatter of features in fp64; the statistics of chunks, or of ranks, are merged into one."""

    num_samples: int
    mean: Tensor  # (d,) fp64
    scatter: Tensor  # (d, d) fp64, sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStatistics":
        """features: (n, d), n >= 1, any float type -> their statistics in fp64. Raises ValueError on NaN or Inf."""
        features = features.double().cpu()
        if not torch.isfinite(features).all():
            raise ValueError("features contain NaN or Inf, so they have no Frechet distance; check the I3D weights.")
        mean = features.mean(dim=0)
        centred = features - mean
        return cls(features.shape[0], mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets together, by the pairwise update of Chan, Golub & LeVeque (1979)."""
        num_samples = self.num_samples + other.num_samples
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.num_samples / num_samples)
        between = torch.outer(difference, difference) * (self.num_samples * other.num_samples / num_samples)
        return FeatureStatistics(num_samples, mean, self.scatter + other.scatter + between)

    def covariance(self, unbiased: bool) -> Tensor:
        """(d, d) fp64; divided by n - 1 when `unbiased`, else by n. Raises ValueError when that is 0."""
        divisor = self.num_samples - int(unbiased)
        if divisor < 1:
            raise ValueError(f"a covariance needs at least 2 clips, got {self.num_samples}; score more clips.")
        return self.scatter / divisor


def matrix_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a symmetric positive semi-definite fp64 matrix (d, d).

    Eigenvalues below the rounding error of eigh (d * eps * largest) are zeros of a rank-deficient covariance: their
    roots would be 1e-8 instead of 0 and add up over hundreds of dimensions.
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    floor = matrix.shape[0] * torch.finfo(matrix.dtype).eps * eigenvalues.max().clamp(min=0)
    roots = torch.where(eigenvalues > floor, eigenvalues.clamp(min=0).sqrt(), 0.0)
    return (vectors * roots) @ vectors.T


def frechet_distance(real: FeatureStatistics, fake: FeatureStatistics, unbiased: bool = False) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of Dowson & Landau (1982); symmetric and never negative.

    The eigenvalues of S1 S2 are those of sqrt(S1) S2 sqrt(S1) = A A^T with A = sqrt(S1) sqrt(S2), so the trace of the
    root is the sum of A's singular values: real by construction, also for rank-deficient S (fewer clips than features).
    """
    covariance_real, covariance_fake = real.covariance(unbiased), fake.covariance(unbiased)
    trace_of_root = torch.linalg.svdvals(matrix_root(covariance_real) @ matrix_root(covariance_fake)).sum()
    mean_term = (real.mean - fake.mean).square().sum()
    distance = mean_term + covariance_real.trace() + covariance_fake.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)  # rounding can leave -1e-13 for identical sets
