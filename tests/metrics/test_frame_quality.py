"""PSNR against its closed form, SSIM against an independent formula, LPIPS never on a random backbone."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from pipelines.metrics.frame_quality import (
    LPIPS_BACKBONES,
    frame_psnr,
    load_lpips,
    lpips_available,
    lpips_distance,
    psnr,
    ssim,
)


def random_video(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_psnr_of_a_known_offset_is_the_closed_form() -> None:
    video = random_video(0, 2, 3, 8, 8) // 2
    expected = torch.tensor([20 * math.log10(255 / 4)] * 2, dtype=torch.float64)
    torch.testing.assert_close(psnr(video, video + 4), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(frame_psnr(video, video + 4), expected[:, None].expand(2, 3), rtol=0, atol=1e-5)


def test_clip_psnr_uses_the_mse_of_the_whole_clip() -> None:
    video = random_video(1, 1, 4, 8, 8) // 2
    changed = video.clone()
    changed[:, 0] += 8  # one bad frame of four: the whole clip's MSE is a quarter of that frame's
    assert psnr(video, changed).item() == pytest.approx(20 * math.log10(255 / 8) + 10 * math.log10(4), abs=1e-4)
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


def test_lpips_without_its_backbone_names_file_source_and_place(tmp_path) -> None:
    assert not lpips_available(tmp_path)
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79.pth.*https://"):
        load_lpips(tmp_path)
    (tmp_path / LPIPS_BACKBONES["alex"]).write_bytes(b"not a state dict")
    with pytest.raises(ValueError, match="download it again"):
        load_lpips(tmp_path)


def test_lpips_takes_its_backbone_from_the_file(tmp_path) -> None:
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for layer, shape in shapes.items():
        state[f"features.{layer}.weight"] = torch.randn(shape, generator=generator) * 0.05
        state[f"features.{layer}.bias"] = torch.zeros(shape[0])
    torch.save(state, tmp_path / LPIPS_BACKBONES["alex"])
    assert lpips_available(tmp_path)
    before = torch.random.get_rng_state()
    model = load_lpips(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close(model.net.slice2[1].weight.data, state["features.3.weight"])
    a, b = random_video(6, 2, 2, 64, 64), random_video(7, 2, 2, 64, 64)
    torch.testing.assert_close(lpips_distance(model, a, a), torch.zeros(2))
    assert (lpips_distance(model, a, b) > 0).all()
