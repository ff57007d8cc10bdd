"""Proxy distances against closed forms, features against what they are defined as, and damage that they must see."""

import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from pipelines.metrics.frechet import FeatureStatistics
from pipelines.metrics.proxy_frechet import clip_features, proxy_record, proxy_records, standardised_distance
from pipelines.metrics.proxy_temporal import TemporalFeatures, temporal_energies


def draw(num_rows: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(real: torch.Tensor, fake: torch.Tensor) -> float:
    return standardised_distance(FeatureStatistics.of(real), FeatureStatistics.of(fake))[0]


def moving(num_clips: int = 8, num_frames: int = 9, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth pictures that slide by a pixel or two per frame: (n, t, h, w, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_clips, 3, 6, 6, generator=generator) * 255
    wide = F.interpolate(coarse, size=(side, side + 2 * num_frames), mode="bicubic").clamp(0, 255)
    frames = torch.stack(
        [wide[..., (1 + t % 2) * t : (1 + t % 2) * t + side][..., :side] for t in range(num_frames)], 1
    )
    return rearrange(frames, "n t c h w -> n t h w c").to(torch.uint8)


def test_the_distance_is_the_closed_form_in_deviations_of_the_real_clips() -> None:
    """Exact moments: rows +-s and +-s shifted have mean and variance in closed form, whatever the unit."""
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    unit, scale, shift = (torch.tensor(pair, dtype=torch.float64) for pair in ([1e-4, 1e6], [2, 0.5], [0.3, 0]))
    real, fake = signs * unit + 3, (signs * scale + shift) * unit + 3
    expected = 0.3**2 + (2 - 1) ** 2 + (1 - 0.5) ** 2
    assert distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert distance(real, real) == pytest.approx(0, abs=1e-12)


def test_constant_features_are_left_out_and_counted() -> None:
    real, fake = draw(20, 3), draw(20, 3, seed=1)
    constant = torch.full((20, 1), 7.0, dtype=torch.float64)
    with_constant = [torch.cat([rows, constant], dim=1) for rows in (real, fake)]
    value, dimensions = standardised_distance(*map(FeatureStatistics.of, with_constant))
    assert dimensions == 3 and value == pytest.approx(distance(real, fake), rel=1e-9)
    assert proxy_record("x", constant, real[:, :1], {})["value"] is None, "of features that say nothing"
    with pytest.raises(ValueError, match="2 clips.*20 real and 1"):
        distance(real, fake[:1])


class Brightness:
    """Another source of features, with two metrics."""

    dimensions = {"proxy_mean": 1, "proxy_spread": 2}

    def __call__(self, video_uint8: torch.Tensor) -> dict[str, torch.Tensor]:
        levels = rearrange(video_uint8, "n t h w c -> n (t h w c)").float()
        return {
            "proxy_mean": levels.mean(1, keepdim=True),
            "proxy_spread": levels.quantile(torch.tensor([0.1, 0.9]), 1).T,
        }

    def record(self) -> dict[str, str]:
        return {"of": "levels"}


def test_features_side_by_side_give_every_metric_its_own_record() -> None:
    sources = [TemporalFeatures(), Brightness()]
    real, fake = (clip_features(moving(seed=seed), sources) for seed in (0, 1))
    records = proxy_records(sources, real, fake)
    assert list(records) == ["proxy_frechet_temporal", "proxy_mean", "proxy_spread"]
    assert all(record["name"] == name for name, record in records.items())
    spread = records["proxy_spread"]
    assert spread["of"] == "levels" and (spread["num_real"], spread["num_fake"], spread["dimensions"]) == (8, 8, 2)
    alone = [Brightness()(moving(seed=seed))["proxy_spread"] for seed in (0, 1)]
    assert spread["value"] == proxy_record("x", *alone, {})["value"]


def test_temporal_energies_are_energies_of_differences() -> None:
    """A clip without spatial detail: all energy is in the last band."""
    levels = torch.tensor([100.0 + 10 * t * (-1) ** t for t in range(6)])
    video = levels[None, :, None, None, None].expand(2, -1, 16, 16, 3).to(torch.uint8)
    features = rearrange(temporal_energies(video), "n (band difference kind) -> n band difference kind", band=4, kind=2)
    for order in (1, 2):
        energies = levels.diff(n=order).square() + 1 / 12
        torch.testing.assert_close(
            features[0, 3, order - 1], torch.stack([energies.mean().log(), energies.log().mean()])
        )
        torch.testing.assert_close(features[0, :3, order - 1], torch.full((3, 2), math.log(1 / 12)))
    with pytest.raises(ValueError, match="4 frames of 8 pixels"):
        temporal_energies(video[:, :3])


def test_damage_is_seen() -> None:
    """Noise, a still clip and reversed pairs of frames all move the temporal distance away from 0."""
    video, generator = moving(num_clips=16, seed=3), torch.Generator().manual_seed(0)
    real = temporal_energies(video)
    noisy = (video.float() + 20 * torch.randn(video.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    still, order = video[:, :1].expand_as(video), [1, 0, 3, 2, 5, 4, 7, 6, 8]
    for damaged in (noisy, still, video[:, order]):
        assert distance(real, temporal_energies(damaged)) > 0.5
