"""Bottleneck: features <-> latent. Compressed sensing (measure with phi, recover by unrolled ISTA) or linear.

Every part has its own measurement `Measurement` (its half of the bottleneck belongs to its encoder) and its own
projection back, unless the projection is shared; the recovery network is shared like the decoder.
"""

from __future__ import annotations

import torch
from torch import nn

from vae.blocks import BlockStack, Past
from vae.gaussian import Gaussian

BOTTLENECKS = ("compressed_sensing", "linear")
INITIAL_LOG_VARIANCE = -4.0
INITIAL_STEP = 0.5
INITIAL_THRESHOLD = 0.01


class Measurement(nn.Module):
    """features (b, t, h, w, width) -> Gaussian (b, channels, t, h, w): mean = phi p, log-variance from a linear map."""

    def __init__(self, width: int, recovery_width: int, channels: int) -> None:
        super().__init__()
        # The recovery works at the decoder's width: a narrower encoder is first brought to it.
        self.widen = nn.Linear(width, recovery_width, bias=False) if width != recovery_width else nn.Identity()
        self.phi = nn.Parameter(torch.empty(channels, recovery_width))
        self.log_variance = nn.Linear(recovery_width, channels)
        nn.init.orthogonal_(self.phi)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, INITIAL_LOG_VARIANCE)

    def forward(self, features: torch.Tensor) -> Gaussian:
        """DeCo-VAE Eq. 1, from the encoder's last features."""
        features = self.widen(features)
        mean = torch.einsum("bthwd,cd->bcthw", features, self.phi)
        return Gaussian.from_moments(mean, torch.einsum("bthwc->bcthw", self.log_variance(features)))


def build_recovery(bottleneck: str, width: int) -> nn.Module:
    """The recovery network of one of BOTTLENECKS."""
    return SparseRecovery(width) if bottleneck == "compressed_sensing" else LinearRecovery()


class LinearRecovery(nn.Module):
    """The projection alone is the recovery."""

    def forward(
        self, features: torch.Tensor, latent: torch.Tensor, phi: torch.Tensor, past: list[Past] | None = None
    ) -> tuple[torch.Tensor, list[Past]]:
        """features (b, t, h, w, width) = projection of latent (b, t, h, w, c): returned as they are."""
        return features, []


class SparseRecovery(nn.Module):
    """Unrolled ISTA: r <- r - w phi^T (phi r - y), then r <- r + B(soft(F(r), theta)), as in LeanVAE (Cheng 2025)."""

    def __init__(self, width: int, steps: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.step_sizes = nn.Parameter(torch.full((steps,), INITIAL_STEP))
        self.thresholds = nn.Parameter(torch.full((steps,), INITIAL_THRESHOLD))
        self.forward_nets = nn.ModuleList(BlockStack(width, depth) for _ in range(steps))
        self.backward_nets = nn.ModuleList(BlockStack(width, depth) for _ in range(steps))

    def forward(
        self, features: torch.Tensor, latent: torch.Tensor, phi: torch.Tensor, past: list[Past] | None = None
    ) -> tuple[torch.Tensor, list[Past]]:
        """features (b, t, h, w, width), latent (b, t, h, w, c), phi (c, width) -> features, pasts of all networks."""
        pasts = iter(past) if past is not None else iter([None] * (2 * len(self.forward_nets)))
        new_pasts = []
        for step, threshold, forward_net, backward_net in zip(
            self.step_sizes, self.thresholds, self.forward_nets, self.backward_nets, strict=True
        ):
            features = features - step * ((features @ phi.T - latent) @ phi)
            sparse, forward_past = forward_net(features, next(pasts))
            sparse = sparse.sign() * torch.relu(sparse.abs() - threshold)
            update, backward_past = backward_net(sparse, next(pasts))
            features = features + update
            new_pasts += [forward_past, backward_past]
        return features, new_pasts
