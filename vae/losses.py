"""Loss terms as free functions; each is a mean, so that numbers compare across sizes (KL alone is a sum per clip).

Pixel losses are measured on [-0.5, 0.5], half of the video's range: the scale of the weights in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vae.wavelet import haar_spatial, haar_spatiotemporal, split_bands

# Of the adaptive weight: a discriminator without a gradient must not divide by zero.
SMALLEST_NORM, LARGEST_WEIGHT = 1e-12, 1e4


def pixel_l1(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of (b, c, t, h, w) in [-1, 1], on the half scale. Scalar."""
    return (decoded.float() - target.float()).abs().mean() / 2


def pixel_l2(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of (b, c, t, h, w) in [-1, 1], on the half scale. Scalar."""
    return ((decoded.float() - target.float()) / 2).square().mean()


def wavelet_l1(
    decoded: torch.Tensor, target: torch.Tensor, starts_with_image: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 of the Haar bands (LeanVAE): (mean over low bands, mean over high bands), on the half scale.

    decoded, target: (b, 3, t, h, w), even h and w; frame 0 stands alone when starts_with_image, the rest in pairs.
    """
    difference = (decoded.float() - target.float()) / 2
    num_images = int(starts_with_image)
    image, groups = difference.split([num_images, difference.shape[2] - num_images], dim=2)
    sums = [difference.new_zeros(()), difference.new_zeros(())]
    counts = [0, 0]
    for frames, transform in ((image, haar_spatial), (groups, haar_spatiotemporal)):
        if frames.shape[2]:
            for level, band in enumerate(split_bands(transform(frames), frames.shape[1])):
                sums[level] = sums[level] + band.abs().sum()
                counts[level] += band.numel()
    return sums[0] / counts[0], sums[1] / counts[1]


def psnr(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """PSNR in dB, for a peak of 2, of every clip from the MSE of the whole clip: (b, c, t, h, w) -> (b,).

    Nothing is cut off: pixels are to be clamped to [-1, 1] before, motion and residuals not.
    """
    error = (decoded.float() - target.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def total_variation(flow: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels of (b, c, t, h, w). Scalar."""
    return flow.diff(dim=-1).abs().mean() + flow.diff(dim=-2).abs().mean()


def hinge_discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the discriminator. Scalar."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the generator. Scalar."""
    return -fake_logits.float().mean()


def adaptive_weight(
    pixel_loss: torch.Tensor, adversarial_loss: torch.Tensor, reconstruction: torch.Tensor
) -> torch.Tensor:
    """Weight that gives the adversarial loss as long a gradient as the pixel loss, detached, in [0, 10^4]. Scalar.

    As in VQGAN (Esser et al. 2021, Eq. 7), but measured at the reconstruction (b, 3, t, h, w), not at the last layer:
    an autoencoder here has several last layers, and all these gradients pass through the reconstruction.
    """
    norms = [
        torch.autograd.grad(loss, reconstruction, retain_graph=True)[0].float().norm()
        for loss in (pixel_loss, adversarial_loss)
    ]
    return (norms[0] / norms[1].clamp_min(SMALLEST_NORM)).clamp(0, LARGEST_WEIGHT).detach()


def lecam_loss(
    real_logits: torch.Tensor, fake_logits: torch.Tensor, real_average: torch.Tensor, fake_average: torch.Tensor
) -> torch.Tensor:
    """LeCam regularisation (Tseng et al. 2021, Eq. 4): keeps each side near the moving average of the other. Scalar."""
    return F.relu(real_logits - fake_average).square().mean() + F.relu(real_average - fake_logits).square().mean()
