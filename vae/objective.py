"""The training objective of a video autoencoder: DeCo-VAE Eq. 9 plus a wavelet term per component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from vae.choices import check_choices
from vae.discriminator import DiscriminatorConfig
from vae.interface import Coded
from vae.losses import pixel_l1, pixel_l2, psnr, wavelet_l1
from vae.perceptual import perceptual_frames, take_frames

Draws = Callable[[str], list[torch.Generator]]


@dataclass(frozen=True)
class LossConfig:
    """Weights of Eq. 9; a weight of 0 switches the term off."""

    l1: float = 4.0  # L1 of the video on the scale [-0.5, 0.5]
    l2: float = 0.0  # mean squared error of the video on the same scale: small models learn shapes sooner with it
    wavelet_low: float = 0.2  # L1 of the low Haar band of every component; without it the components lose their meaning
    wavelet_high: float = 0.4  # L1 of the high Haar bands of every component
    perceptual: float = 4.0  # LPIPS on 5 frames of each clip; needs the network's file in weights.folder
    perceptual_network: str = "vgg"  # vgg (VGG16, as papers train) | alex (AlexNet, cheaper)
    kl: float = 1e-7  # KL divergence, summed over the latents of a clip
    kl_factors: dict[str, float] = field(default_factory=dict)  # by part, times kl: 1 where not named

    def __post_init__(self) -> None:
        check_choices(self, "vae.losses", perceptual_network=("vgg", "alex"))
        if min(self.kl_factors.values(), default=1.0) < 0:
            raise ValueError(f"vae.losses.kl_factors is {dict(self.kl_factors)}, choose factors of 0 or more.")


@dataclass(frozen=True)
class GanConfig:
    """The adversarial part."""

    weight: float = 0.2  # weight of the adversarial term; 0 = no discriminator
    weighting: str = "constant"  # constant, or adaptive: weight x (gradient of the pixel losses / of the adversarial)
    start_step: int = 400_000  # first step with a discriminator
    discriminator_lr_scale: float = 0.2  # learning rate of the discriminator relative to the autoencoder's
    lecam: float = 0.005  # weight of the LeCam regularisation; 0 = off
    discriminator: DiscriminatorConfig = field(
        default_factory=DiscriminatorConfig
    )  # kind and size of the discriminator

    def __post_init__(self) -> None:
        check_choices(self, "vae.gan", weighting=("constant", "adaptive"))


def pixel_loss(terms: dict[str, torch.Tensor], config: LossConfig) -> torch.Tensor:
    """The weighted terms on the reconstruction alone, which an adaptive adversarial weight is measured against."""
    loss = config.l1 * terms["l1"] + (config.l2 * terms["l2"] if "l2" in terms else 0)
    return loss + config.perceptual * terms["perceptual"] if "perceptual" in terms else loss


def reconstruction_objective(
    coded: Coded, video: torch.Tensor, config: LossConfig, perceptual: nn.Module | None, draws: Draws
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Everything of Eq. 9 but the adversarial term.

    video: (b, 3, t, h, w) in [-1, 1]. perceptual: LPIPS of images (n, 3, h, w) in [-1, 1], None where it has no weight.
    Returns the scalar loss and its terms, unweighted, with the PSNR of the batch.
    """
    terms = {"l1": pixel_l1(coded.reconstruction, video)}
    loss = config.l1 * terms["l1"]
    if config.l2:
        terms["l2"] = pixel_l2(coded.reconstruction, video)
        loss = loss + config.l2 * terms["l2"]
    if config.wavelet_low or config.wavelet_high:
        for name, pair in coded.components.items():
            low, high = wavelet_l1(pair.decoded, pair.target, pair.starts_with_image)
            terms |= {f"{name}_low": low, f"{name}_high": high}
            loss = loss + config.wavelet_low * low + config.wavelet_high * high
    if perceptual is not None:
        frames = perceptual_frames(video, draws("perceptual frames"))
        decoded, target = take_frames(coded.reconstruction, frames), take_frames(video, frames)
        terms["perceptual"] = perceptual(decoded, target).mean()
        loss = loss + config.perceptual * terms["perceptual"]
    if config.kl:
        by_part = {part: posterior.kl().mean() for part, posterior in coded.posterior.items()}
        terms["kl"] = torch.stack(list(by_part.values())).sum()
        factors = [config.kl_factors.get(part, 1.0) for part in by_part]
        weighted = [factor * value for factor, value in zip(factors, by_part.values(), strict=True)]
        loss = loss + config.kl * torch.stack(weighted).sum()
    terms["psnr"] = psnr(coded.reconstruction.detach().clamp(-1, 1), video).mean()
    return loss, terms | coded.statistics
