"""Numbers of reconstructions: both rFVDs against closed forms, scores that do not depend on pieces, compactness."""

import math

import pytest
import torch
from torch import nn

from pipelines.metrics.compactness import compactness, principal_components, standardise
from pipelines.metrics.frame_quality import frame_psnr, ssim
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.reconstruction_protocols import PROTOCOLS, VideoScorer, find_protocols
from pipelines.metrics.rfvd import ClipFeatures, clip_starts, reconstruction_distances


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def video(num_frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num_frames, height, width, 3), generator=generator(seed), dtype=torch.uint8)


def small_extractor() -> FeatureExtractor:
    """The real class around a network of one layer: 400 features of a clip (n, 3, t, 224, 224)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(3, 1, 1), nn.AdaptiveAvgPool3d((4, 10, 10)), nn.Flatten())
    return FeatureExtractor(network, "", "test", True)


@pytest.mark.parametrize("num_frames", [1, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("wanted", [0, 1, 2, 5])
def test_clips_do_not_overlap_and_lie_inside(num_frames: int, wanted: int) -> None:
    starts = clip_starts(num_frames, 16, wanted)
    assert len(starts) == min(wanted, num_frames // 16)
    assert all(0 <= start <= num_frames - 16 for start in starts)
    assert all(later - earlier >= 16 for earlier, later in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("piece", [1, 7, 40])
def test_features_of_clips_do_not_depend_on_the_pieces(piece: int) -> None:
    frames, extractor, starts = video(40, 24, 30), small_extractor(), clip_starts(40, 9, 3)
    clips = ClipFeatures(extractor, starts, 9)
    for part in frames.split(piece):
        clips.add(part)
    square = frames[:, :, 3:27]  # the centre
    expected = extractor.features(torch.stack([square[start : start + 9] for start in starts]))
    torch.testing.assert_close(clips.features, expected)
    assert ClipFeatures(extractor, [], 9).features.shape == (0, 400)


def test_both_distances_of_a_shift_are_its_square() -> None:
    features = torch.randn(30, 400, generator=generator())
    shift = torch.randn(400, generator=generator(1)) / 20
    both = reconstruction_distances(features, features + shift, is_proxy=False)
    expected = shift.double().square().sum().item()
    assert both == {"rfvd": pytest.approx(expected, rel=1e-4), "rfvd_per_clip": pytest.approx(expected, rel=1e-4),
                    "rfvd_clips": 30}  # fmt: skip


def test_the_two_distances_differ_where_clips_are_swapped() -> None:
    """The same set of features in another order: no Frechet distance, but every clip is far from its own."""
    features = torch.randn(20, 400, generator=generator())
    swapped = features.roll(1, dims=0)
    both = reconstruction_distances(features, swapped, is_proxy=True)
    assert both["proxy_rfvd"] == pytest.approx(0, abs=1e-6)
    assert both["proxy_rfvd_per_clip"] == pytest.approx((features - swapped).square().sum(1).mean().item(), rel=1e-5)


def test_distances_without_enough_clips_are_none() -> None:
    assert reconstruction_distances(torch.zeros(0, 400), torch.zeros(0, 400), True)["proxy_rfvd_per_clip"] is None
    one = reconstruction_distances(torch.ones(1, 400), torch.zeros(1, 400), True)
    assert one == {"proxy_rfvd": None, "proxy_rfvd_per_clip": 400.0, "rfvd_clips": 1}


@pytest.mark.parametrize("piece", [1, 3, 9])
def test_scores_are_means_over_frames_whatever_the_pieces(piece: int) -> None:
    original = video(9, 20, 22)
    changed = (original.float() * 0.9 + video(9, 20, 22, seed=1).float() * 0.1).round().to(torch.uint8)
    scorer = VideoScorer()
    for a, b in zip(original.split(piece), changed.split(piece), strict=True):
        scorer.add(a, b)
    scores = scorer.scores()
    assert scores["psnr"] == pytest.approx(frame_psnr(original[None], changed[None]).mean().item(), rel=1e-6)
    assert scores["ssim"] == pytest.approx(ssim(original[None], changed[None]).item(), rel=1e-5)
    assert scores["lpips"] is None, "no weights, no score"


def test_frames_too_small_for_ssim_have_none() -> None:
    scorer = VideoScorer()
    scorer.add(video(2, 4, 4), video(2, 4, 4))
    assert scorer.scores() == {"psnr": 100.0, "ssim": None, "lpips": None}


def test_protocols_by_name() -> None:
    assert [protocol.name for protocol in find_protocols(["wfvae", "in_memory", "wfvae"])] == ["wfvae", "in_memory"]
    for names in ([], ["in_memory", "lean"]):
        with pytest.raises(ValueError, match="reconstruct.protocols.*in_memory, leanvae, wfvae"):
            find_protocols(names)
    assert not (PROTOCOLS["in_memory"].original_codec or PROTOCOLS["in_memory"].reconstruction_codec)


def test_compactness_of_known_clouds() -> None:
    sizes = torch.tensor([4.0, 2.0, 1.0])
    axes = torch.cat([torch.diag(sizes), -torch.diag(sizes)])  # two points on every axis: variances 16 : 4 : 1
    shares = [16 / 21, 4 / 21, 1 / 21]
    numbers = compactness(axes)
    assert numbers["effective_rank"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert numbers["effective_rank_share"] == pytest.approx(numbers["effective_rank"] / 3)
    assert numbers["variance_in_two"] == pytest.approx(20 / 21)
    assert numbers["mean_distance"] == pytest.approx((7 / 3) / math.sqrt(42 / 6))
    assert compactness(torch.cat([torch.eye(3), -torch.eye(3)]))["mean_distance"] == pytest.approx(1)
    assert compactness(torch.ones(5, 3))["effective_rank"] == 1


def test_compactness_ignores_scale_place_and_turn_and_sees_tails() -> None:
    cloud = torch.randn(500, 6, generator=generator()) @ torch.randn(6, 6, generator=generator(1))
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator(2)))
    before, after = compactness(cloud), compactness(7 * cloud @ turn + 3)
    assert after == {name: pytest.approx(value, rel=1e-4) for name, value in before.items()}
    heavy = cloud * torch.rand(500, 1, generator=generator(3)) ** 3
    assert compactness(heavy)["mean_distance"] < before["mean_distance"]
    assert compactness(torch.randn(4000, 8, generator=generator(4)))["effective_rank"] == pytest.approx(8, rel=0.01)


def test_standardised_clouds_and_principal_components() -> None:
    cloud = torch.randn(200, 5, generator=generator()) * torch.tensor([9.0, 3.0, 1.0, 0.5, 0.0]) + 4
    standard = standardise(cloud)
    torch.testing.assert_close(standard.square().mean(dim=0), torch.tensor([1.0] * 4 + [0.0], dtype=torch.float64))
    from sklearn.decomposition import PCA

    theirs = torch.from_numpy(PCA(3, svd_solver="full").fit_transform(cloud.double().numpy()))
    torch.testing.assert_close(principal_components(cloud, 3).abs(), theirs.abs())
    assert principal_components(cloud, 9).shape == (200, 5)
