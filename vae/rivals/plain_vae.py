"""The control without decoupling: one encoder on RGB and the same decoder (the paper's row "V.D. off")."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from vae.blocks import Past, ResidualBlock
from vae.bottleneck import BOTTLENECKS, Measurement, build_recovery
from vae.choices import check_choices
from vae.decoder import Decoder
from vae.encoder import BackboneConfig, Encoder
from vae.gaussian import Gaussian, Generators
from vae.interface import TEMPORAL_COMPRESSION, Encoding, Latents, VideoAutoencoder, typed_config
from vae.tiling import Place

# Per network, and in it per tile: the last frames of its convolutions.
PlainState = defaultdict[str, dict[Place, Any]]


@dataclass(frozen=True)
class PlainVaeConfig:
    """Architecture of the plain video VAE."""

    encoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the encoder
    decoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the decoder
    patch_size: int = 4  # patch height and width after the wavelet; 4 gives 1/8 of the pixels
    latent_channels: int = 16  # channels of the latent
    bottleneck: str = "compressed_sensing"  # compressed_sensing (LeanVAE's ISTA) or linear
    overlapping_patches: bool = False  # the low bands of decoded patches reach over half of their neighbours: no grid

    def __post_init__(self) -> None:
        check_choices(self, "vae.plain_vae", bottleneck=BOTTLENECKS)


class PlainVAE(VideoAutoencoder):
    """(b, 3, 4n + 1, h, w) <-> {"video": (b, c, n + 1, h / 8, w / 8)}."""

    _supports_gradient_checkpointing = True
    block_class = ResidualBlock
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
        self.recovery = build_recovery(config.bottleneck, width)
        self.decoder = Decoder(
            config.decoder,
            config.patch_size,
            first_frame=True,
            groups=True,
            overlapping=config.overlapping_patches,
        )

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> {"video": (c, t', h', w')}."""
        num_frames, height, width = clip_shape
        num_latents = 1 + (num_frames - 1) // TEMPORAL_COMPRESSION
        size = (height // self.size_multiple, width // self.size_multiple)
        return {"video": (self.architecture.latent_channels, num_latents, *size)}

    def new_state(self) -> PlainState:
        """Nothing coded yet."""
        return defaultdict(dict)

    def encode_chunk(self, video: torch.Tensor, state: PlainState, sample: bool, generator: Generators) -> Encoding:
        """One encoder on RGB."""

        def network(tile: torch.Tensor, past: dict[str, Past] | None) -> tuple[torch.Tensor, dict[str, Past]]:
            features, past = self.encoder(tile, past)  # (b, t', h', w', width)
            return self.measurement(features).stacked(), past  # (b, 2 c, t', h', w')

        posterior = Gaussian.unstacked(self.by_tiles(network, video, 1, self.size_multiple, state["encoder"]))
        return Encoding({"video": posterior}, {"video": posterior.latent(sample, generator)}, tuple(video.shape[2:]))

    def decode_chunk(self, latents: Latents, state: PlainState) -> torch.Tensor:
        """One decoder to RGB."""

        def network(tile: torch.Tensor, past: tuple | None) -> tuple[torch.Tensor, tuple]:
            recovery_past, decoder_past = past or (None, None)
            latent = torch.einsum("bcthw->bthwc", tile)
            features = self.projection(latent)  # (b, t', h', w', width)
            features, recovery_past = self.recovery(features, latent, self.measurement.phi, recovery_past)
            video, decoder_past = self.decoder(features, past is None, decoder_past)  # (b, 3, t, h, w)
            return video, (recovery_past, decoder_past)

        return self.by_tiles(network, latents["video"], self.size_multiple, 1, state["decoder"])
