"""DeCo-VAE (arXiv 2511.14530): a clip is decoupled into keyframe, motion and residual, each with its own encoder, one
decoder shared by all, and recoupled. Read from `code` down as section 3; departures are options of `DecoVaeConfig`.

x_t: frames, x_0: keyframe, m: motion, r: residual, z: latents; ^ marks what was decoded. A latent is (b, c, t', h', w')
with t' groups of four frames and h', w' an eighth of the pixels.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from diffusers.configuration_utils import register_to_config
from einops import repeat
from torch import nn

from vae.blocks import Past, ResidualBlock
from vae.bottleneck import Measurement, build_recovery
from vae.coding import (
    PICTURE_ROWS,
    Coding,
    CodingState,
    as_frame,
    coding_statistics,
    component_pairs,
    shown_components,
    start_chunk,
)
from vae.deco_vae_config import DecoVaeConfig
from vae.decoder import Decoder
from vae.decoupling import decouple, denormalise_motion, normalise_motion, predict, recouple
from vae.encoder import PIXEL_CHANNELS, Encoder, PatchProjection
from vae.gaussian import Gaussian, Generators
from vae.interface import TEMPORAL_COMPRESSION, Coded, Encoding, Latents, VideoAutoencoder, typed_config
from vae.motion_module import MotionModule
from vae.wavelet import SPATIOTEMPORAL_NUM_BANDS, haar_spatiotemporal


class DeCoVAE(VideoAutoencoder):
    """Three encoders, one shared decoder. Interface: `VideoAutoencoder`; options: `DecoVaeConfig`."""

    _supports_gradient_checkpointing = True
    block_class = ResidualBlock
    picture_rows = PICTURE_ROWS

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        self.architecture = config = typed_config(DecoVaeConfig, architecture)
        self.size_multiple = 2 * config.patch_size
        self.causal = config.keyframe_mode == "single"
        self.open_loop = config.residual_reference == "original"
        width, channels = config.decoder.width, asdict(config.latent_channels)
        first = config.first_frame_latent
        # E_k, E_m, E_r of Eq. 1. Each part's half of the bottleneck (its measurement) belongs to its encoder.
        self.encoders = nn.ModuleDict()
        self.measurements = nn.ModuleDict()
        for part in config.parts:
            size, patch = config.encoder(part), config.part_patch_size(part)
            if part == "keyframe":
                encoder = Encoder(size, patch, first_frame=True, groups=config.keyframe_mode == "repeat")
            else:
                encoder = Encoder(size, patch, first_frame=first, groups=True)
            self.encoders[part] = encoder
            self.measurements[part] = Measurement(size.width, config.decoder_of(part).width, channels[part])
        # D of Eq. 3, and what brings each latent to its width.
        channels_out = PIXEL_CHANNELS + int(config.recoupling == "gated")
        self.decoder = Decoder(
            config.decoder,
            config.patch_size,
            first_frame=True,
            groups=True,
            channels=channels_out,
            overlapping=config.overlapping_patches,
        )
        self.recovery = build_recovery(config.bottleneck, width)
        self.projections = nn.ModuleDict(
            {name: nn.Linear(channels[part], config.decoder_of(part).width, bias=False)
             for part in config.parts for name in [config.projection_name(part)]}
        )  # fmt: skip
        if config.residual_context:
            volume = (2, config.patch_size, config.patch_size)
            self.context = PatchProjection(SPATIOTEMPORAL_NUM_BANDS, volume, config.decoder, PIXEL_CHANNELS)
        if config.motion:
            self.motion_module = MotionModule(asdict(config.motion_module))
            if config.motion_decoder == "small":
                patch = config.part_patch_size("motion")
                self.motion_decoder = Decoder(config.small_motion_decoder, patch, first_frame=first, groups=True)

    # ------------------------------------------------------------------ 3.2 decouple and encode

    def code(self, video: torch.Tensor, state: CodingState, sample: bool, generator: Generators) -> Coding:
        """Decouple a chunk and encode its components, each against what was decoded of those before it."""
        coding = start_chunk(video, state, self.architecture.first_frame_latent, sample, generator)
        if coding.starts_clip:
            self.code_keyframe(coding)
        if not coding.frames.shape[2]:  # a single image is its keyframe
            return coding.without_frames(self.latent_shapes(tuple(video.shape[2:])))
        if self.architecture.motion:
            self.code_motion(coding)
        self.code_residual(coding)
        return coding

    def code_keyframe(self, coding: Coding) -> None:
        """X_k -> z_k -> x^_0, from which every frame of the clip is predicted."""
        state = coding.state
        copies = coding.video.shape[2] if self.architecture.keyframe_mode == "repeat" else 1
        # Eq. 7: X_k = T (x) x_0; ours: once
        component = repeat(state.keyframe, "b c h w -> b c t h w", t=copies)  # (b, 3, T or 1, h, w)
        coding.take("keyframe", self.encode_part("keyframe", component, state))  # z_k: (b, c, t' or 1, h', w')
        state.decoded_keyframe = self.decode_keyframe(coding.latents, state)  # x^_0: (b, 3, h, w)

    def code_motion(self, coding: Coding) -> None:
        """X_m -> z_m -> m^."""
        state = coding.state
        # Eq. 4: m_t = M(Concat(x_t, x_0))
        coding.motion = self.motion_module(coding.frames, state.keyframe)  # m: (b, 3, t, h, w), ours: h/2, w/2
        coding.take("motion", self.encode_part("motion", normalise_motion(coding.motion), state))  # (b, c, t', h', w')
        coding.decoded_motion = self.decode_motion(coding.latents, state)  # m^: as m

    def code_residual(self, coding: Coding) -> None:
        """X_r -> z_r. Closed loop (ours): r is what x^_0 and m^ lack. Open loop (paper): what x_0 and m lack."""
        state, num_frames, closed_loop = coding.state, coding.frames.shape[2], not self.open_loop
        decoded = (state.decoded_keyframe, coding.decoded_motion)
        if closed_loop and self.components_are_trained:
            decoded = coding.without_gradient(*decoded)
        # Eq. 5: x^m_t = W(x_0, m_t)
        coding.prediction = predict(*decoded, num_frames)  # W(x^_0, m^): (b, 3, t, h, w)
        reference = coding.prediction if closed_loop else predict(state.keyframe, coding.motion, num_frames)
        # Eq. 6: r_t = x_t - x^m_t
        coding.residual = decouple(coding.frames, reference)  # r: (b, 3, t, h, w)
        # Gated, the latent describes frames, not what the prediction happened to lack.
        component = coding.frames if self.architecture.recoupling == "gated" else coding.residual
        coding.take("residual", self.encode_part("residual", component, state))  # z_r: (b, c, t', h', w')

    def encode_part(self, part: str, component: torch.Tensor, state: CodingState) -> Gaussian:
        """E_i: a component (b, 3, t, h, w) -> the posterior of its latent (b, c, t', h', w')."""

        def network(tile: torch.Tensor, past: dict[str, Past] | None) -> tuple[torch.Tensor, dict[str, Past]]:
            # Eq. 1: mu_i, log sigma_i^2 = E_i(X_i)
            features, past = self.encoders[part](tile, past)  # (b, t', h', w', width)
            return self.measurements[part](features).stacked(), past  # (b, 2 c, t', h', w')

        cell = self.architecture.downscale(part)
        moments = self.by_tiles(network, component, cell, self.size_multiple, state.past[f"{part}_encoder"])
        return Gaussian.unstacked(moments)

    # ------------------------------------------------------------------ 3.2 decode and recouple

    def decode_keyframe(self, latents: Latents, state: CodingState) -> torch.Tensor:
        """z_k -> x^_0 (b, 3, h, w), the average of its copies."""
        return self.decode_part("keyframe", latents["keyframe"], state).mean(dim=2)  # (b, 3, T or 1, h, w) before

    def decode_motion(self, latents: Latents, state: CodingState) -> torch.Tensor:
        """z_m -> m^ (b, 3, t, h, w), ours h/2, w/2: pixels and levels."""
        return denormalise_motion(self.decode_part("motion", latents["motion"], state))

    def decode_residual(self, latents: Latents, state: CodingState, prediction: torch.Tensor) -> torch.Tensor:
        """z_r -> r^ (b, 3, t, h, w). Ours: the decoder also sees W(x^_0, m^), which the paper's does not.

        Gated, z_r -> content c and gate g: x^ = g W(x^_0, m^) + (1 - g) c, of which r^ is what Eq. 8 adds.
        """
        latent, context = latents["residual"], None
        if self.architecture.residual_context:
            context = self.residual_context(prediction, latent.shape[2])  # (b, width, t', h', w')
        if self.architecture.recoupling == "additive":
            return self.decode_part("residual", latent, state, context)
        content, gate = self.decode_channels("residual", latent, state, context).split([PIXEL_CHANNELS, 1], dim=1)
        return (1 - gate.sigmoid()) * (content - prediction)

    def decode_part(
        self, part: str, latent: torch.Tensor, state: CodingState, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """D_i: the latent (b, c, t', h', w') of a part -> its component (b, 3, t, h, w), fp32."""
        decoded = self.decode_channels(part, latent, state, context)
        component, _ = decoded.split([PIXEL_CHANNELS, decoded.shape[1] - PIXEL_CHANNELS], dim=1)
        return component

    def decode_channels(
        self, part: str, latent: torch.Tensor, state: CodingState, context: torch.Tensor | None
    ) -> torch.Tensor:
        """All that the decoder gives: (b, 3, t, h, w), and with gated recoupling a fourth channel, the gate's logit."""
        config, channels = self.architecture, latent.shape[1]
        x = latent if context is None else torch.cat([latent, context], dim=1)  # (b, c + width, t', h', w')

        def network(tile: torch.Tensor, past: tuple | None) -> tuple[torch.Tensor, tuple]:
            recovery_past, decoder_past = past or (None, None)
            coded, seen = torch.einsum("bcthw->bthwc", tile).split([channels, tile.shape[1] - channels], dim=-1)
            features = self.projections[config.projection_name(part)](coded)  # (b, t', h', w', width)
            if config.shares_decoder(part):
                phi = self.measurements[part].phi
                features, recovery_past = self.recovery(features, coded, phi, recovery_past)
            if context is not None:
                features = features + seen
            starts_with_image = past is None and (part == "keyframe" or config.first_frame_latent)
            # Eq. 3: X^_i = D_i(z_i)
            decoder = self.decoder if config.shares_decoder(part) else self.motion_decoder
            component, decoder_past = decoder(features, starts_with_image, decoder_past)  # (b, 3, t, h, w)
            return component, (recovery_past, decoder_past)

        return self.by_tiles(network, x, self.size_multiple, config.downscale(part), state.past[f"{part}_decoder"])

    def residual_context(self, prediction: torch.Tensor, latent_frames: int) -> torch.Tensor:
        """The prediction (b, 3, t, h, w) as the residual's decoder sees it: (b, width, t', h', w')."""
        num_images = prediction.shape[2] % 2  # a first frame of its own has no context: there r_0 = x_0 - x^_0
        _, groups = prediction.split([num_images, prediction.shape[2] - num_images], dim=2)  # (b, 3, 4 n, h, w)
        features = torch.cat(self.context(haar_spatiotemporal(groups)), dim=-1)  # (b, n, h', w', width)
        missing = latent_frames - features.shape[1]
        features = nn.functional.pad(features, (0, 0, 0, 0, 0, 0, missing, 0)) if missing else features
        return torch.einsum("bthwc->bcthw", features)

    def recouple(self, coding: Coding) -> Coding:
        """Decode the residual of a coded chunk and put the frames together: x^ (b, 3, t, h, w)."""
        if coding.decoded_residual is None:
            coding.decoded_residual = self.decode_residual(coding.latents, coding.state, coding.prediction)
        # Eq. 8: x^_t = W(x^_0, m^_t) + r^_t
        frames = recouple(coding.prediction, coding.decoded_residual)  # (b, 3, t, h, w) without frame 0
        coding.reconstruction = coding.with_first_frame(frames, as_frame(coding.state.decoded_keyframe))
        return coding

    def decode_latents(self, latents: Latents, state: CodingState, with_residual: bool) -> torch.Tensor:
        """x^ of a chunk from its latents alone, (b, 3, t, h, w), or W(x^_0, m^); only the first has a keyframe."""
        config, starts_clip = self.architecture, state.decoded_keyframe is None
        if starts_clip:
            state.decoded_keyframe = self.decode_keyframe(latents, state)  # (b, 3, h, w)
        first, latent_frames = as_frame(state.decoded_keyframe), latents["residual"].shape[2]
        if not latent_frames:  # a single image
            return first
        motion = self.decode_motion(latents, state) if config.motion else None
        # Eq. 5, decoded: W(x^_0, m^)
        frames = predict(state.decoded_keyframe, motion, config.num_frames(latent_frames, starts_clip))
        if with_residual:
            # Eq. 8: x^_t = W(x^_0, m^_t) + r^_t
            frames = recouple(frames, self.decode_residual(latents, state, frames))  # (b, 3, t, h, w)
        return torch.cat([first, frames], dim=2) if starts_clip and not config.first_frame_latent else frames

    # ------------------------------------------------------------------ interface

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Section 3 of the paper in one pass: decouple, encode, decode, recouple."""
        self.check_video(video)
        coding = self.recouple(self.code(video, CodingState(), sample, generator))
        pairs = component_pairs(coding, closed_loop=not self.open_loop)
        return Coded(coding.posterior, coding.latents, coding.reconstruction, pairs, coding_statistics(coding))

    def new_state(self) -> CodingState:
        """Nothing coded yet."""
        return CodingState()

    def encode_chunk(self, video: torch.Tensor, state: CodingState, sample: bool, generator: Generators) -> Encoding:
        """In the closed loop the residual depends on the latents used."""
        coding = self.code(video, state, sample, generator)
        return Encoding(coding.posterior, coding.latents, tuple(video.shape[2:]))

    def decode_chunk(self, latents: Latents, state: CodingState) -> torch.Tensor:
        """Decode the parts and recouple them."""
        return self.decode_latents(latents, state, with_residual=True)

    def decode_prediction(self, latents: Latents) -> torch.Tensor:
        """W(x^_0, m^) with x^_0 as frame 0, (b, 3, t, h, w): recoupling without the residual."""
        return self.decode_latents(latents, CodingState(), with_residual=False)

    def components_chunk(self, video: torch.Tensor, state: CodingState) -> dict[str, torch.Tensor]:
        """`vae.coding.shown_components` of a chunk."""
        return shown_components(self.recouple(self.code(video, state, sample=False, generator=None)))

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> (c, t', h', w') of every part."""
        num_frames, height, width = clip_shape
        config, groups = self.architecture, (num_frames - 1) // TEMPORAL_COMPRESSION
        size = (height // self.size_multiple, width // self.size_multiple)
        return {
            part: (getattr(config.latent_channels, part), config.latent_frames(part, groups), *size)
            for part in config.parts
        }

    @staticmethod
    def has_motion_module(architecture: DecoVaeConfig) -> bool:
        """Unless motion is switched off."""
        return architecture.motion

    def motion_modules(self) -> list[nn.Module]:
        """M, if there is one."""
        return [self.motion_module] if self.architecture.motion else []

    def keyframe_modules(self) -> list[nn.Module]:
        """E_k with its half of the bottleneck."""
        return [self.encoders["keyframe"], self.measurements["keyframe"]]
