"""Proxy distances against closed forms, features against what they are defined as, and damage that they must see."""

import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from pipelines.metrics.class_accuracy import VideoClassifier
from pipelines.metrics.frechet import FeatureStatistics
from pipelines.metrics.proxy_classifier import joint_features
from pipelines.metrics.proxy_flow import FlowFeatures, flow_statistics
from pipelines.metrics.proxy_frechet import clip_features, proxy_record, proxy_records, standardised_distance
from pipelines.metrics.proxy_latents import LatentFeatures, latent_deviations, latent_energies
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


def test_records_name_what_the_features_depend_on() -> None:
    sources = [
        TemporalFeatures(),
        LatentFeatures(lambda video: {"motion": video, "keyframe": video}, {"motion": torch.ones(3)}, "abc"),
    ]
    real, fake = (clip_features(moving(seed=seed), sources) for seed in (0, 1))
    records = proxy_records(sources, real, fake)
    assert list(records) == ["proxy_frechet_temporal", "proxy_frechet_latents_motion"]
    assert all(name.startswith("proxy_") and record["name"] == name for name, record in records.items())
    latents = records["proxy_frechet_latents_motion"]
    assert latents["autoencoder"] == "abc" and (latents["num_real"], latents["num_fake"]) == (8, 8)
    alone = clip_features(moving(seed=0), sources[1:]), clip_features(moving(seed=1), sources[1:])
    assert latents["value"] == proxy_record("x", *alone, {})["value"]


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


def test_flow_statistics_of_a_known_motion() -> None:
    motion, unexplained = torch.zeros(2, 3, 4, 6, 6), torch.full((2, 3, 4, 6, 6), 0.1)
    motion[:, 0], motion[:, 1], motion[:, 2] = 3.0, -4.0, 0.5
    features = flow_statistics(motion, unexplained)
    expected = torch.tensor([5.02, 0.02, 0.51, 0.01, 1e-4, 0.01 + 1e-4]).log()
    torch.testing.assert_close(features[0, :6], expected)
    torch.testing.assert_close(features[0, 6:], torch.zeros(6), msg="nothing changes over time")


def test_the_flow_is_that_between_neighbours() -> None:
    seen = []

    def estimate(frames: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        seen.append((frames, before))
        return torch.zeros_like(frames)

    video = moving(num_clips=2, num_frames=5)
    rows = FlowFeatures(estimate, lambda before, motion: before.unsqueeze(2), "abc")(video)["proxy_frechet_flow"]
    frames, before = seen[0]
    as_float = rearrange(video, "n t h w c -> (n t) c h w").float() / 127.5 - 1
    torch.testing.assert_close(frames[0, :, 0], as_float[1])
    torch.testing.assert_close(before[0], as_float[0])
    torch.testing.assert_close(frames[-1, :, 0], as_float[-1])
    steps = rearrange(as_float, "(n t) c h w -> n t c h w", n=2).diff(dim=1)
    torch.testing.assert_close(rows[:, 5], (steps.square().mean(dim=(2, 3, 4)) + 1e-4).log().mean(dim=1))


def test_latent_energies_are_energies_of_differences() -> None:
    """A ramp of slope 2 over the height that jumps by 3 from frame to frame: all three energies in closed form."""
    rows = 2.0 * torch.arange(4)[:, None].expand(4, 5)
    latent = torch.stack([rows, rows + 3, rows])[None, None]  # (1, 1, 3, 4, 5)
    values = torch.stack([rows, rows + 3, rows])
    expected = torch.stack([values.var(correction=0), torch.tensor(4.0), torch.tensor(9.0)])
    torch.testing.assert_close(latent_energies(latent)[0], (expected + 0.1).log())
    still = latent_energies(latent[:, :, :1])[0]
    torch.testing.assert_close(still[2], torch.tensor(0.1).log(), msg="one latent frame has no differences over time")


def test_latents_are_whitened_over_clips_positions_and_frames() -> None:
    video, scale = moving(num_clips=6), torch.tensor([1.0, 50.0, 1e-3])[:, None, None, None]
    plain, scaled = (lambda x: {"video": x, "other": x}), (lambda x: {"video": x * scale, "other": x})
    deviations = [latent_deviations(encode, video.split(4), ["video"]) for encode in (plain, scaled)]
    as_float = rearrange(video, "n t h w c -> c (n t h w)").double() / 127.5 - 1
    torch.testing.assert_close(deviations[0]["video"].double(), as_float.std(dim=1, correction=0), rtol=1e-6, atol=0)
    rows = [
        LatentFeatures(encode, std, "abc")(video)["proxy_frechet_latents_video"]
        for encode, std in zip((plain, scaled), deviations, strict=True)
    ]
    torch.testing.assert_close(*rows, msg="the unit of a channel does not matter")


def test_labels_count_beside_what_the_classifier_sees() -> None:
    torch.manual_seed(0)
    classifier, video = VideoClassifier(num_classes=4).eval(), moving(num_clips=24)
    labels = torch.arange(24) % 4
    rows = joint_features(classifier, video, labels)
    assert rows.shape == (24, 64 + 4) and torch.equal(rows[:, 64:].argmax(dim=1), labels)
    assert distance(rows, rows) < 1e-9
    mixed_up = joint_features(classifier, video, (labels + 1) % 4)  # the same videos, and as many of every class
    assert distance(rows[:, :64], mixed_up[:, :64]) < 1e-9 < 0.1 < distance(rows, mixed_up)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        joint_features(classifier, video, labels - 1)


def test_damage_is_seen() -> None:
    """Noise, a still clip and reversed pairs of frames all move the temporal distance away from 0."""
    video, generator = moving(num_clips=16, seed=3), torch.Generator().manual_seed(0)
    real = temporal_energies(video)
    noisy = (video.float() + 20 * torch.randn(video.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    still, order = video[:, :1].expand_as(video), [1, 0, 3, 2, 5, 4, 7, 6, 8]
    for damaged in (noisy, still, video[:, order]):
        assert distance(real, temporal_energies(damaged)) > 0.5
