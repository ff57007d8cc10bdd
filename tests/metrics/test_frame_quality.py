"""PSNR against its closed form, SSIM against an independent formula."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from pipelines.metrics.frame_quality import frame_psnr, psnr, ssim


def random_video(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_psnr_of_a_known_offset_is_the_closed_form() -> None:
    video = random_video(0, 2, 3, 8, 8) // 2
    expected = torch.tensor([20 * math.log10(255 / 4)] * 2, dtype=torch.float64)
    torch.testing.assert_close(psnr(video, video + 4), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(frame_psnr(video, video + 4), expected[:, None].expand(2, 3), rtol=0, atol=1e-5)


def test_psnr_of_a_clip_is_the_mean_of_its_frames() -> None:
    video = random_video(1, 1, 4, 8, 8) // 2
    changed = video.clone()
    changed[:, 0] += 8  # one bad frame of four
    assert psnr(video, changed).item() == pytest.approx((20 * math.log10(255 / 8) + 3 * 100) / 4, abs=1e-4)
    assert frame_psnr(video, changed)[0, 1:].tolist() == [100.0] * 3


def test_identical_videos_get_the_cap_and_ssim_one() -> None:
    video = random_video(2, 2, 2, 16, 16)
    assert psnr(video, video).tolist() == [100.0, 100.0]
    torch.testing.assert_close(ssim(video, video), torch.ones(2))


def independent_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Wang et al. 2004 in numpy: Gaussian window of 11, sigma 1.5, positions where the window fits."""

    def window_mean(x):
        for axis in (1, 2):
            x = gaussian_filter1d(x, 1.5, axis=axis, radius=5)
        return x[:, 5:-5, 5:-5]

    a, b = a.double().numpy() / 255, b.double().numpy() / 255
    mean_a, mean_b = window_mean(a), window_mean(b)
    variance_a = window_mean(a * a) - mean_a**2
    variance_b = window_mean(b * b) - mean_b**2
    covariance = window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    contrast = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
    return float((luminance * contrast).mean())


def test_ssim_equals_an_independent_formula() -> None:
    a = random_video(3, 2, 3, 20, 24)
    b = (a.float() * 0.8 + random_video(4, 2, 3, 20, 24).float() * 0.2).round().to(torch.uint8)
    expected = torch.tensor([independent_ssim(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float32)
    torch.testing.assert_close(ssim(a, b), expected, rtol=0, atol=2e-5)


def test_mismatched_or_float_videos_are_refused() -> None:
    video = random_video(5, 1, 2, 12, 12)
    with pytest.raises(ValueError, match="of one shape"):
        psnr(video, video[:, :1])
    with pytest.raises(ValueError, match="uint8"):
        psnr(video.float(), video.float())
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(video[:, :, :8], video[:, :, :8])
