"""The control without decoupling: one encoder on RGB and the same decoder (the paper's row "V.D. off")."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from vae.bottleneck import LinearRecovery, Measurement, SparseRecovery
from vae.decoder import Decoder
from vae.encoder import BackboneConfig, Encoder
from vae.gaussian import Gaussian, Generators
from vae.interface import TEMPORAL_COMPRESSION, Coded, ComponentPair, Encoding, Latents, VideoAutoencoder, typed_config

# Per network and place of the tile: the last frames of its convolutions.
PlainState = dict[tuple[str, tuple[int, int]], dict]


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

    _supports_gradient_checkpointing = True
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

    def new_state(self) -> PlainState:
        """Nothing coded yet."""
        return {}

    def encode_chunk(self, video: torch.Tensor, state: PlainState, sample: bool, generator: Generators) -> Encoding:
        """One encoder on RGB."""

        def network(tile: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
            features, past = self.encoder(tile, state.get(("encoder", place)))
            state["encoder", place] = past
            posterior = self.measurement(features)
            return torch.cat([posterior.mean, posterior.log_variance], dim=1)

        moments = self.by_tiles(network, video, 1, self.size_multiple)
        posterior = Gaussian(*moments.split([self.architecture.latent_channels] * 2, dim=1))
        latent = posterior.sample(generator) if sample else posterior.mean
        return Encoding({"video": posterior}, {"video": latent}, tuple(video.shape[2:]))

    def decode_chunk(self, latents: Latents, state: PlainState) -> torch.Tensor:
        """One decoder to RGB."""

        def network(tile: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
            past = state.get(("decoder", place))
            latent = torch.einsum("bcthw->bthwc", tile)
            recovery_past = past and past["recovery"]
            features, recovery_past = self.recovery(
                self.projection(latent), latent, self.measurement.phi, recovery_past
            )
            video, decoder_past = self.decoder(features, past is None, past and past["decoder"])
            state["decoder", place] = {"recovery": recovery_past, "decoder": decoder_past}
            return video

        return self.by_tiles(network, latents["video"], self.size_multiple, 1)

    def components_chunk(self, video: torch.Tensor, state: PlainState) -> dict[str, torch.Tensor]:
        """The reconstruction alone."""
        latents = self.encode_chunk(video, state, sample=False, generator=None).latents
        return {"reconstruction": self.decode_chunk(latents, state)}

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Encode and decode in one pass."""
        self.check_video(video)
        encoding = self.encode(video, sample, generator)
        reconstruction = self.decode(encoding.latents)
        pairs = {"video": ComponentPair(reconstruction, video, starts_with_image=True)}
        return Coded(encoding.posterior, encoding.latents, reconstruction, pairs, {})
