"""Quality of reconstructions frame by frame: PSNR and SSIM between uint8 videos."""

import torch
from einops import rearrange, reduce
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
MAX_PSNR = 100.0  # dB given to identical videos (MSE 0), the cap of the LeanVAE and WF-VAE scores


def check_pair(a_uint8: Tensor, b_uint8: Tensor) -> None:
    """ValueError unless both are uint8 videos (n, t, h, w, 3) of one shape."""
    if a_uint8.shape != b_uint8.shape or a_uint8.ndim != 5 or {a_uint8.dtype, b_uint8.dtype} != {torch.uint8}:
        raise ValueError(
            f"frame quality compares two uint8 videos (n, t, h, w, 3) of one shape, got {a_uint8.dtype} "
            f"{tuple(a_uint8.shape)} and {b_uint8.dtype} {tuple(b_uint8.shape)}; crop or convert them first."
        )


def _decibel(squared_error: Tensor) -> Tensor:
    return (-10 * torch.log10(squared_error)).clamp(max=MAX_PSNR)


def _squared_error(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """(n, t) fp64 mean squared error of every frame, values in [0, 1]; clip by clip, for videos are large."""
    frame_errors = [
        reduce((a.float() / 255 - b.float() / 255).square(), "t h w c -> t", "mean")
        for a, b in zip(a_uint8, b_uint8, strict=True)
    ]
    return torch.stack(frame_errors).double()


def psnr(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """a_uint8, b_uint8: (n, t, h, w, 3) uint8 -> (n,) dB, the mean of the frames' PSNR, as papers print it."""
    return frame_psnr(a_uint8, b_uint8).mean(dim=1)


def frame_psnr(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """a_uint8, b_uint8: (n, t, h, w, 3) uint8 -> (n, t) dB of every frame; identical frames give 100."""
    check_pair(a_uint8, b_uint8)
    return _decibel(_squared_error(a_uint8, b_uint8))


def ssim(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """a_uint8, b_uint8: (n, t, h, w, 3) uint8, h, w >= 11 -> (n,) in [-1, 1], mean over frames.

    Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, valid positions only, K = (0.01, 0.03), mean of R, G and B.
    """
    check_pair(a_uint8, b_uint8)
    if min(a_uint8.shape[2:4]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least 11 x 11, got {tuple(a_uint8.shape[2:4])}; use larger frames.")
    pairs = zip(a_uint8, b_uint8, strict=True)  # frame by frame: what is added up fits into the processor's cache
    return torch.stack([torch.stack(list(map(_frame_ssim, a, b))).mean() for a, b in pairs])


def _frame_ssim(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """(h, w, 3) uint8 each -> scalar."""
    a, b = (rearrange(frame, "h w c -> c h w").contiguous().float() / 255 for frame in (a_uint8, b_uint8))
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a * a) - mean_a * mean_a
    variance_b = _window_mean(b * b) - mean_b * mean_b
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_K1**2) / (mean_a * mean_a + mean_b * mean_b + SSIM_K1**2)
    contrast = (2 * covariance + SSIM_K2**2) / (variance_a + variance_b + SSIM_K2**2)
    return (luminance * contrast).mean()


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian mean around every position where the window fits: (c, h, w) -> (c, h - 10, w - 10).

    Axis by axis as a weighted sum of shifted copies: on CPUs much faster than a convolution of one channel.
    """
    offsets = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    for axis in (1, 2):
        length = x.shape[axis] - SSIM_WINDOW + 1
        mean = torch.zeros_like(x.narrow(axis, 0, length))
        for start, weight in enumerate((weights / weights.sum()).tolist()):
            mean.add_(x.narrow(axis, start, length), alpha=weight)
        x = mean
    return x
