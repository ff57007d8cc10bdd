"""Frechet distance against closed forms and scipy; streamed statistics equal those of the whole."""

import numpy as np
import pytest
import scipy.linalg
import torch

from pipelines.metrics.frechet import FeatureStatistics, frechet_distance, matrix_root
from pipelines.metrics.inception_score import inception_score
from pipelines.metrics.kernel_distance import kernel_distance


def features(seed: int, num_samples: int, dimension: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64) / dimension**0.5
    return torch.randn(num_samples, dimension, generator=generator, dtype=torch.float64) @ mixing + 0.1 * seed


def scipy_distance(a: torch.Tensor, b: torch.Tensor, ddof: int) -> float:
    a, b = a.numpy(), b.numpy()
    covariance_a, covariance_b = np.cov(a, rowvar=False, ddof=ddof), np.cov(b, rowvar=False, ddof=ddof)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b)
    difference = a.mean(axis=0) - b.mean(axis=0)
    return float(np.real(difference @ difference + np.trace(covariance_a + covariance_b - 2 * root)))


def test_diagonal_gaussians_have_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    mean_a, mean_b = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    variance_a, variance_b = torch.rand(2, 40, generator=generator, dtype=torch.float64) + 0.1
    a = FeatureStatistics(101, mean_a, torch.diag(variance_a) * 100)
    b = FeatureStatistics(101, mean_b, torch.diag(variance_b) * 100)
    expected = (mean_a - mean_b).square().sum() + (variance_a.sqrt() - variance_b.sqrt()).square().sum()
    assert frechet_distance(a, b, unbiased=True) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_equals_scipy_sqrtm_on_full_rank(unbiased: bool) -> None:
    a, b = features(1, 200, 30), features(2, 150, 30)
    got = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b), unbiased)
    assert got == pytest.approx(scipy_distance(a, b, ddof=int(unbiased)), rel=1e-10)


def test_rank_deficient_sets_have_the_exact_value() -> None:
    """With n < d, tr (S1 S2)^(1/2) is the nuclear norm of X1 X2^T of the centred n x d factors: a small matrix."""
    a, b = features(3, 12, 60), features(4, 20, 60)
    centred_a, centred_b = a - a.mean(dim=0), b - b.mean(dim=0)
    nuclear = torch.linalg.svdvals(centred_a @ centred_b.T).sum() / (12 * 20) ** 0.5
    expected = (a.mean(dim=0) - b.mean(dim=0)).square().sum() - 2 * nuclear
    expected += centred_a.square().sum() / 12 + centred_b.square().sum() / 20
    got = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert got == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("num_samples", [8, 100])
def test_identity_symmetry_and_order_of_samples(num_samples: int) -> None:
    a, b = features(5, num_samples, 40), features(6, num_samples, 40)
    statistics_a, statistics_b = FeatureStatistics.of(a), FeatureStatistics.of(b)
    distance = frechet_distance(statistics_a, statistics_b)
    assert frechet_distance(statistics_a, statistics_a) < 1e-9 * distance
    assert frechet_distance(statistics_b, statistics_a) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(FeatureStatistics.of(a.flip(0)), statistics_b) == pytest.approx(distance, rel=1e-12)


def test_merged_chunks_equal_the_whole() -> None:
    samples = features(7, 50, 12) + 100
    whole = FeatureStatistics.of(samples)
    chunks = [FeatureStatistics.of(chunk) for chunk in samples.split([1, 20, 7, 22])]
    streamed = chunks[0]
    for chunk in chunks[1:]:
        streamed = streamed.merge(chunk)
    tree = chunks[0].merge(chunks[1]).merge(chunks[2].merge(chunks[3]))  # as ranks merge
    for merged in (streamed, tree):
        assert merged.num_samples == 50
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=1e-12 * whole.scatter.max().item())
    theirs = torch.from_numpy(np.cov(samples.numpy(), rowvar=False))
    torch.testing.assert_close(whole.covariance(unbiased=True), theirs, rtol=1e-10, atol=1e-12)


def test_matrix_root_squares_to_the_matrix_and_has_its_rank() -> None:
    factor = features(8, 5, 20).T
    root = matrix_root(factor @ factor.T)
    torch.testing.assert_close(root @ root, factor @ factor.T, rtol=1e-10, atol=1e-12)
    assert torch.linalg.matrix_rank(root, tol=1e-12) == 5


def test_bad_features_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        FeatureStatistics.of(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="at least 2 clips"):
        FeatureStatistics.of(torch.ones(1, 3)).covariance(unbiased=True)


def test_fewer_clips_than_features_have_the_exact_value() -> None:
    """256 clips, 400 features: clips that lie on coordinate axes have diagonal covariances, whose distance is known."""
    generator = torch.Generator().manual_seed(9)
    spreads = 0.1 + torch.rand(2, 128, generator=generator, dtype=torch.float64)
    sets = []
    for spread, shift in zip(spreads, (0.0, 0.25), strict=True):
        clips = torch.zeros(256, 400, dtype=torch.float64) + shift
        clips[range(128), range(128)] += spread * 128**0.5  # pairs +- on one axis each
        clips[range(128, 256), range(128)] -= spread * 128**0.5
        sets.append(FeatureStatistics.of(clips[torch.randperm(256, generator=generator)]))
    expected = 400 * 0.25**2 + (spreads[0] - spreads[1]).square().sum().item()
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)


def test_rank_deficient_clips_in_general_position() -> None:
    a, b = features(10, 256, 400), features(11, 256, 400)
    centred_a, centred_b = a - a.mean(dim=0), b - b.mean(dim=0)
    nuclear = torch.linalg.svdvals(centred_a @ centred_b.T).sum() / 256
    expected = (a.mean(dim=0) - b.mean(dim=0)).square().sum() - 2 * nuclear
    expected += (centred_a.square().sum() + centred_b.square().sum()) / 256
    got = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert abs(got - expected.item()) < 1e-6 and got == pytest.approx(expected.item(), rel=1e-9)


def test_kernel_distance_equals_its_double_sum() -> None:
    a, b = features(12, 7, 5), features(13, 9, 5)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return ((x @ y).item() / 5 + 1) ** 3

    within_a = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / (7 * 6)
    within_b = sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / (9 * 8)
    between = sum(kernel(x, y) for x in a for y in b) / 63
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-10)
    with pytest.raises(ValueError, match="2 clips.*got 1 and 9"):
        kernel_distance(a[:1], b)


def test_kernel_distance_is_unbiased_and_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(14)
    halves = [torch.randn(2, 6, 3, generator=generator, dtype=torch.float64) for _ in range(3000)]
    values = torch.tensor([kernel_distance(a, b) for a, b in halves])
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5, "two samples of one distribution"
    a, b = features(15, 50, 8), features(16, 40, 8)
    whole = kernel_distance(a, b)
    monkeypatch.setattr("pipelines.metrics.kernel_distance.BLOCK", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-10)


def test_inception_score_of_known_predictions() -> None:
    sure = 50 * torch.eye(4).repeat(3, 1)  # every class equally often, each time certainly
    assert inception_score(sure) == pytest.approx(4, rel=1e-9)
    assert inception_score(torch.ones(6, 4)) == pytest.approx(1)
    p = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    q = p.mean(dim=0)
    assert inception_score(p.log()) == pytest.approx(((p * (p / q).log()).sum(dim=1).mean()).exp().item())
