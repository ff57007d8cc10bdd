"""Quality of reconstructions frame by frame: PSNR, SSIM and LPIPS between uint8 videos."""

import warnings
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pipelines.metrics.declared import LOWER, RECONSTRUCTION, Metric, declare

SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
MAX_PSNR = 100.0  # dB given to identical videos (MSE 0), the cap of the LeanVAE and WF-VAE scores
LPIPS_BACKBONES = {  # LPIPS network -> torchvision file of its backbone; alex is what published video VAE scores use
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
for name, network in {"lpips_alex": "AlexNet", "lpips_vgg": "VGG16"}.items():
    meaning = f"Perceptual distance (LPIPS, {network}) of the reconstruction. Lower is better."
    declare(Metric(name, meaning, LOWER, "{clips} held-out clips", RECONSTRUCTION))


def _check_pair(a_uint8: Tensor, b_uint8: Tensor) -> None:
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
    """a_uint8, b_uint8: (n, t, h, w, 3) uint8 -> (n,) dB, from the MSE of the whole clip; identical clips give 100."""
    _check_pair(a_uint8, b_uint8)
    return _decibel(reduce(_squared_error(a_uint8, b_uint8), "n t -> n", "mean"))


def frame_psnr(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """a_uint8, b_uint8: (n, t, h, w, 3) uint8 -> (n, t) dB of every frame; its mean is the PSNR most papers print."""
    _check_pair(a_uint8, b_uint8)
    return _decibel(_squared_error(a_uint8, b_uint8))


def ssim(a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """a_uint8, b_uint8: (n, t, h, w, 3) uint8, h, w >= 11 -> (n,) in [-1, 1], mean over frames.

    Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, valid positions only, K = (0.01, 0.03), mean of R, G and B.
    """
    _check_pair(a_uint8, b_uint8)
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


def lpips_available(weights_dir: str | Path, network: str = "alex") -> bool:
    """Whether `weights_dir` holds the backbone file that LPIPS on `network` (alex or vgg) needs."""
    return network in LPIPS_BACKBONES and (Path(weights_dir) / LPIPS_BACKBONES[network]).is_file()


def load_lpips(weights_dir: str | Path, network: str = "alex") -> nn.Module:
    """LPIPS (Zhang et al. 2018, version 0.1) with the backbone from `weights_dir`, frozen and in eval mode.

    Raises ValueError when the file is absent or is another network: a random backbone is never used.
    """
    if network not in LPIPS_BACKBONES:
        raise ValueError(f"LPIPS network is one of {', '.join(LPIPS_BACKBONES)}, got {network!r}; choose one of them.")
    name = LPIPS_BACKBONES[network]
    path = Path(weights_dir) / name
    if not path.is_file():
        raise ValueError(
            f"LPIPS needs {name}, which is not in {weights_dir}: download https://download.pytorch.org/models/{name} "
            "and put it there."
        )
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by arguments that torchvision deprecates
        model = lpips.LPIPS(net=network, pnet_rand=True, verbose=False).eval()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # lpips cuts torchvision's `features` into slices and keeps the layer numbers.
        for key in model.net.state_dict():
            layer = key.split(".", maxsplit=1)[1]
            model.net.get_parameter(key).data.copy_(state[f"features.{layer}"])
    except Exception as error:  # not a state dict, another network, a broken file
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not torchvision's {name} ({reason}); download it again.") from error
    return model.requires_grad_(False)


@torch.inference_mode()
def lpips_distance(model: nn.Module, a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """model: from `load_lpips`, on any device; a_uint8, b_uint8: (n, t, h, w, 3) uint8 -> (n,), mean over frames."""
    _check_pair(a_uint8, b_uint8)
    device = next(model.parameters()).device
    distances = []
    for a, b in zip(a_uint8, b_uint8, strict=True):
        pair = [rearrange(video, "t h w c -> t c h w").to(device).float() / 127.5 - 1 for video in (a, b)]
        distances.append(model(*pair).mean().cpu())
    return torch.stack(distances)
