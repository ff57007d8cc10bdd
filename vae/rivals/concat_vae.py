"""The control with one encoder for everything (the paper's row "Concat"): the clip is decoupled as in DeCo-VAE, then
keyframe copies, motion and residual are put on the channel axis and coded together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from diffusers.configuration_utils import register_to_config
from einops import repeat
from torch import nn

from vae.blocks import ResidualBlock
from vae.bottleneck import BOTTLENECKS, Measurement, build_recovery
from vae.choices import check_choices
from vae.coding import (
    PICTURE_ROWS,
    Coding,
    CodingState,
    coding_statistics,
    component_pairs,
    shown_components,
    start_chunk,
)
from vae.decoder import Decoder
from vae.decoupling import decouple, denormalise_motion, normalise_motion, predict, recouple, split_keyframe
from vae.encoder import PIXEL_CHANNELS, BackboneConfig, Encoder
from vae.gaussian import Gaussian, Generators
from vae.interface import TEMPORAL_COMPRESSION, Coded, Encoding, Latents, VideoAutoencoder, typed_config
from vae.motion_module import MotionModule, MotionModuleConfig
from vae.scale_space_flow import enlarge_motion

COMPONENT_CHANNELS = [PIXEL_CHANNELS] * 3  # keyframe, motion, residual


@dataclass(frozen=True)
class ConcatVaeConfig:
    """Architecture of the video VAE with one encoder for all components."""

    encoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the encoder
    decoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the decoder
    patch_size: int = 4  # patch height and width after the wavelet; 4 gives 1/8 of the pixels
    latent_channels: int = 48  # channels of the latent; 48 are as many values as three latents of 16
    bottleneck: str = "compressed_sensing"  # compressed_sensing (LeanVAE's ISTA) or linear
    motion_module: MotionModuleConfig = field(default_factory=MotionModuleConfig)  # size of the motion module

    def __post_init__(self) -> None:
        check_choices(self, "vae.concat_vae", bottleneck=BOTTLENECKS)


class ConcatVAE(VideoAutoencoder):
    """(b, 3, 4n + 1, h, w) <-> {"video": (b, c, n + 1, h / 8, w / 8)}, by way of nine channels. Open loop (Eq. 6)."""

    _supports_gradient_checkpointing = True
    block_class = ResidualBlock
    picture_rows = PICTURE_ROWS
    causal = False  # the decoded copies of the keyframe are averaged over time

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        self.architecture = config = typed_config(ConcatVaeConfig, architecture)
        self.size_multiple = 2 * config.patch_size
        width, channels = config.decoder.width, sum(COMPONENT_CHANNELS)
        self.motion_module = MotionModule(asdict(config.motion_module))
        self.encoder = Encoder(config.encoder, config.patch_size, first_frame=True, groups=True, channels=channels)
        self.measurement = Measurement(config.encoder.width, width, config.latent_channels)
        self.projection = nn.Linear(config.latent_channels, width, bias=False)
        self.recovery = build_recovery(config.bottleneck, width)
        self.decoder = Decoder(config.decoder, config.patch_size, first_frame=True, groups=True, channels=channels)

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> {"video": (c, t', h', w')}."""
        num_frames, height, width = clip_shape
        num_latents = 1 + (num_frames - 1) // TEMPORAL_COMPRESSION
        size = (height // self.size_multiple, width // self.size_multiple)
        return {"video": (self.architecture.latent_channels, num_latents, *size)}

    @staticmethod
    def has_motion_module(architecture: ConcatVaeConfig) -> bool:
        """Always."""
        return True

    def motion_modules(self) -> list[nn.Module]:
        """M."""
        return [self.motion_module]

    def encode_chunk(self, video: torch.Tensor, state: None, sample: bool, generator: Generators) -> Encoding:
        """One encoder on the nine channels."""
        posterior = self._measure(*self._decouple(video))
        return Encoding({"video": posterior}, {"video": posterior.latent(sample, generator)}, tuple(video.shape[2:]))

    def decode_chunk(self, latents: Latents, state: None) -> torch.Tensor:
        """DeCo-VAE Eq. 8."""
        keyframe, motion, residual = self._decode_components(latents["video"])
        return recouple(predict(keyframe, motion, residual.shape[2]), residual)

    def components_chunk(self, video: torch.Tensor, state: None) -> dict[str, torch.Tensor]:
        """`vae.coding.shown_components` of a clip."""
        return shown_components(self._code_and_decode(video, sample=False, generator=None))

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Encode and decode in one pass."""
        self.check_video(video)
        coding = self._code_and_decode(video, sample, generator)
        pairs = component_pairs(coding, closed_loop=False)
        return Coded(coding.posterior, coding.latents, coding.reconstruction, pairs, coding_statistics(coding))

    # ------------------------------------------------------------------ coding

    def _code_and_decode(self, video: torch.Tensor, sample: bool, generator: Generators) -> Coding:
        state = CodingState()
        coding = start_chunk(video, state, first_frame_latent=True, sample=sample, generator=generator)
        state.keyframe, coding.motion, coding.residual = self._decouple(video)
        coding.take("video", self._measure(state.keyframe, coding.motion, coding.residual))
        components = self._decode_components(coding.latents["video"])
        state.decoded_keyframe, coding.decoded_motion, coding.decoded_residual = components
        coding.prediction = predict(state.decoded_keyframe, coding.decoded_motion, video.shape[2])
        coding.reconstruction = recouple(coding.prediction, coding.decoded_residual)  # Eq. 8
        return coding

    def _decouple(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x_0 (b, 3, h, w), m and r (b, 3, t, h, w), frame 0 included."""
        keyframe, _ = split_keyframe(video)
        motion = enlarge_motion(self.motion_module(video, keyframe), video.shape[-2:])  # Eq. 4
        return keyframe, motion, decouple(video, predict(keyframe, motion, video.shape[2]))  # Eq. 6

    def _measure(self, keyframe: torch.Tensor, motion: torch.Tensor, residual: torch.Tensor) -> Gaussian:
        copies = repeat(keyframe, "b c h w -> b c t h w", t=residual.shape[2])  # Eq. 7: X_k = T (x) x_0
        components = torch.cat([copies, normalise_motion(motion), residual], dim=1)  # (b, 9, t, h, w)

        def network(tile: torch.Tensor, past: None) -> tuple[torch.Tensor, None]:
            features, _ = self.encoder(tile)  # (b, t', h', w', width)
            return self.measurement(features).stacked(), None  # (b, 2 c, t', h', w')

        return Gaussian.unstacked(self.by_tiles(network, components, 1, self.size_multiple))

    def _decode_components(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x^_0 (b, 3, h, w), m^ and r^ (b, 3, t, h, w)."""

        def network(tile: torch.Tensor, past: None) -> tuple[torch.Tensor, None]:
            coded = torch.einsum("bcthw->bthwc", tile)
            features, _ = self.recovery(self.projection(coded), coded, self.measurement.phi)  # (b, t', h', w', width)
            components, _ = self.decoder(features, starts_with_image=True)  # (b, 9, t, h, w)
            return components, None

        components = self.by_tiles(network, latent, self.size_multiple, 1)
        copies, motion, residual = components.split(COMPONENT_CHANNELS, dim=1)
        return copies.mean(dim=2), denormalise_motion(motion), residual
