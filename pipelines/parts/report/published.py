"""Figures that papers print about this family of models. They stand apart from ours, with what is known of how they
were made: none of them shares a column with a score of this project.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFigure:
    """One row of a table of a paper."""

    model: str
    task: str  # GENERATION or RECONSTRUCTION
    figures: str  # names and values as printed
    source: str
    comparable: str  # why a score made here compares, or does not


GENERATION, RECONSTRUCTION = "FVD16 on UCF-101, 256 x 256", "Reconstruction, 17 x 256 x 256"
_DECO = "DeCo-VAE (arXiv 2511.14530)"
_COPIED = "no: printed beside other papers' figures without saying with which code, real clips or number of samples"
_PER_CLIP = (
    "PSNR, SSIM and LPIPS within their protocol (codec, first 17 frames); rFVD no: it is the mean squared distance per "
    "clip of this family's scripts, here rfvd_per_clip, not a Frechet distance"
)

PUBLISHED = (
    PublishedFigure("DeCo-VAE-Latte, 16 channels", GENERATION, "166.39", f"{_DECO}, Table 2", _COPIED),
    PublishedFigure(
        "LeanVAE-Latte, 16 channels",
        GENERATION,
        "175.33",
        f"LeanVAE's README; copied in {_DECO}, Table 2",
        "no: its published sampling code guides 4 of the 16 channels, and its FVD code is not published",
    ),
    PublishedFigure(
        "LeanVAE-Latte, 4 channels",
        GENERATION,
        "164.45",
        "LeanVAE's README; left out of DeCo-VAE's Table 2",
        "no: better than the 16-channel model it is listed beside; its FVD code is not published",
    ),
    PublishedFigure("WF-VAE-Latte, 16 channels", GENERATION, "371.15", f"{_DECO}, Table 2", _COPIED),
    PublishedFigure(
        "Latte, its released UCF-101 checkpoint",
        GENERATION,
        "477.97 (paper); 168, about 190 and about 320 measured by users",
        "Latte (arXiv 2401.03048); issues 123, 115 and 138 of its repository",
        "with fvd16-latte, with care: one checkpoint and the same scripts, yet a factor of up to three between "
        "users; real clips are drawn without a seed",
    ),
    PublishedFigure("LVDM", GENERATION, "372", f"copied in {_DECO}, Table 2", _COPIED),
    PublishedFigure(
        "StyleGAN-V",
        GENERATION,
        "1431",
        f"copied in {_DECO}, Table 2",
        "with fvd16-stylegan-v at best: unconditional, and its real clips are the first 2048 of the sorted files, "
        "which are 15 to 16 of the 101 classes",
    ),
    PublishedFigure("VideoGPT", GENERATION, "2880.6", f"copied in {_DECO}, Table 2", _COPIED),
    PublishedFigure(
        "VidTwin with a diffusion transformer",
        GENERATION,
        "193",
        "VidTwin (arXiv 2412.17726)",
        "no: 224 x 224, another diffusion transformer, and the choices behind the FVD are not known",
    ),
    PublishedFigure(
        "DeCo-VAE, 62 M parameters",
        RECONSTRUCTION,
        "WebVid: PSNR 32.29, SSIM 0.9098, LPIPS 0.0491, rFVD 121.66; Kinetics-400: 32.30, 0.9200, 0.0570, 167.85",
        f"{_DECO}, Tables 1 and 3",
        _PER_CLIP + "; its three latents hold three times the numbers of a single 16-channel one",
    ),
    PublishedFigure(
        "LeanVAE, 40 M",
        RECONSTRUCTION,
        "WebVid: PSNR 29.73, SSIM 0.8615, LPIPS 0.0723, rFVD 218.26; Kinetics-400: 30.86, 0.8979, 0.0543, 219.96",
        f"{_DECO}, Tables 1 and 3",
        _PER_CLIP,
    ),
    PublishedFigure(
        "WF-VAE, 316 M",
        RECONSTRUCTION,
        "WebVid: PSNR 31.37, SSIM 0.8961, LPIPS 0.0538, rFVD 158.90; Kinetics-400: 34.72, 0.9392, 0.0288, 85.32",
        f"{_DECO}, Tables 1 and 3",
        _PER_CLIP + "; its own report prints 35.76 dB on WebVid (33 frames), 4.4 dB more",
    ),
    PublishedFigure(
        "VidTwin, 157 M",
        RECONSTRUCTION,
        "WebVid: PSNR 30.67, SSIM 0.8594, LPIPS 0.1413, rFVD 593.34; Kinetics-400: 29.95, 0.8782, 0.1034, 518.80",
        f"{_DECO}, Tables 1 and 3",
        _PER_CLIP + "; it compresses much more, and the released model has 313 M parameters",
    ),
    PublishedFigure(
        "OD-VAE, 239 M, 4 channels",
        RECONSTRUCTION,
        "WebVid: PSNR 31.05, SSIM 0.8650, LPIPS 0.0590, rFVD 299.60; Kinetics-400: 31.88, 0.9042, 0.0471, 194.00",
        f"{_DECO}, Tables 1 and 3",
        _PER_CLIP,
    ),
    PublishedFigure(
        "IV-VAE, 107 M, 4 channels",
        RECONSTRUCTION,
        "Kinetics-600: PSNR 34.29, FVD 8.01",
        "IV-VAE (arXiv 2411.06449)",
        "no: other data set, frames and FVD code; reconstructions were read back from H.264 files",
    ),
)
