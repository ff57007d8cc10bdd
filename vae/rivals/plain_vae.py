"""The control without decoupling: one encoder on RGB and the same decoder (the paper's row "V.D. off")."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from vae.bottleneck import LinearRecovery, Measurement, SparseRecovery
from vae.decoder import Decoder
from vae.encoder import BackboneConfig, Encoder
from vae.gaussian import Generators
from vae.interface import TEMPORAL_COMPRESSION, Coded, ComponentPair, Encoding, Latents, VideoAutoencoder, typed_config


@dataclass(frozen=True)
class PlainVaeConfig:
    """Architecture of the plain video VAE."""

    encoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the encoder
    decoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the decoder
    patch_size: int = 4  # patch height and width after the wavelet; 4 gives 1/8 of the pixels
    latent_channels: int = 16  # channels of the latent
    bottleneck: str = "compressed_sensing"  # compressed_sensing (LeanVAE's ISTA) or linear


class PlainVAE(VideoAutoencoder):
    """(b, 3, 4n + 1, h, w) <-> {"video": (b, c, n + 1, h / 8, w / 8)}."""

    causal = True

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        self.architecture = config = typed_config(PlainVaeConfig, architecture)
        self.size_multiple = 2 * config.patch_size
        width = config.decoder.width
        self.encoder = Encoder(config.encoder, config.patch_size, first_frame=True, groups=True)
        self.measurement = Measurement(config.encoder.width, width, config.latent_channels)
        self.projection = nn.Linear(config.latent_channels, width, bias=False)
        self.recovery = SparseRecovery(width) if config.bottleneck == "compressed_sensing" else LinearRecovery()
        self.decoder = Decoder(config.decoder, config.patch_size, first_frame=True, groups=True)

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> {"video": (c, t', h', w')}."""
        num_frames, height, width = clip_shape
        num_latents = 1 + (num_frames - 1) // TEMPORAL_COMPRESSION
        size = (height // self.size_multiple, width // self.size_multiple)
        return {"video": (self.architecture.latent_channels, num_latents, *size)}

    def encode(self, video: torch.Tensor, sample: bool = False, generator: Generators = None) -> Encoding:
        """video: (b, 3, 4n + 1, h, w) in [-1, 1]."""
        self.check_video(video)
        features, _ = self.encoder(video)
        posterior = self.measurement(features)
        return Encoding({"video": posterior}, {"video": posterior.sample(generator) if sample else posterior.mean})

    def decode(self, latents: Latents) -> torch.Tensor:
        """{"video": (b, c, t', h', w')} -> video (b, 3, t, h, w), not clipped."""
        latent = torch.einsum("bcthw->bthwc", latents["video"])
        features, _ = self.recovery(self.projection(latent), latent, self.measurement.phi)
        video, _ = self.decoder(features, starts_with_image=True)
        return video

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Encode and decode in one pass."""
        encoding = self.encode(video, sample, generator)
        reconstruction = self.decode(encoding.latents)
        pairs = {"video": ComponentPair(reconstruction, video, starts_with_image=True)}
        return Coded(encoding.posterior, encoding.latents, reconstruction, pairs, {})
