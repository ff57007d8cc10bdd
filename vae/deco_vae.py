"""DeCo-VAE (arXiv 2511.14530): a clip is decoupled into keyframe, motion and residual, each with its own encoder, one
decoder shared by all, and recoupled. Deviations from the paper are options of `DecoVaeConfig`.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from diffusers.configuration_utils import register_to_config
from einops import repeat
from torch import nn

from vae.bottleneck import LinearRecovery, Measurement, SparseRecovery
from vae.coding import Coding, CodingState, as_frame, coding_statistics, component_pairs, shown_components
from vae.deco_vae_config import DecoVaeConfig
from vae.decoder import Decoder
from vae.decoupling import decouple, denormalise_motion, normalise_motion, predict, recouple, split_keyframe
from vae.encoder import PIXEL_CHANNELS, Encoder, PatchProjection
from vae.gaussian import Gaussian, Generators
from vae.interface import TEMPORAL_COMPRESSION, Coded, Encoding, Latents, VideoAutoencoder, typed_config
from vae.motion_module import MotionModule
from vae.precision import at_least_fp32
from vae.wavelet import SPATIOTEMPORAL_NUM_BANDS, haar_spatiotemporal


class DeCoVAE(VideoAutoencoder):
    """Three encoders, one shared decoder. Interface: `VideoAutoencoder`; options: `DecoVaeConfig`."""

    _supports_gradient_checkpointing = True

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
        self.decoder = Decoder(config.decoder, config.patch_size, first_frame=True, groups=True)
        self.recovery = SparseRecovery(width) if config.bottleneck == "compressed_sensing" else LinearRecovery()
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

    # ------------------------------------------------------------------ interface

    def new_state(self) -> CodingState:
        """Nothing coded yet."""
        return CodingState()

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> (c, t', h', w') of every part."""
        num_frames, height, width = clip_shape
        config, groups = self.architecture, (num_frames - 1) // TEMPORAL_COMPRESSION
        size = (height // self.size_multiple, width // self.size_multiple)
        return {
            part: (getattr(config.latent_channels, part), config.latent_frames(part, groups), *size)
            for part in config.parts
        }

    def encode_chunk(self, video: torch.Tensor, state: CodingState, sample: bool, generator: Generators) -> Encoding:
        """In the closed loop the residual depends on the latents used."""
        coding = self._code(video, state, sample, generator)
        return Encoding(coding.posterior, coding.latents, tuple(video.shape[2:]))

    def decode_chunk(self, latents: Latents, state: CodingState) -> torch.Tensor:
        """DeCo-VAE Eq. 8; only the first chunk has a keyframe."""
        prediction, first = self._predict_chunk(latents, state)
        if prediction is None:
            return as_frame(state.decoded_keyframe)
        frames = recouple(prediction, self._decode_part("residual", latents, state, prediction))
        return torch.cat([first, frames], dim=2) if first is not None else frames

    def decode_prediction(self, latents: Latents) -> torch.Tensor:
        """W(x^_0, m^) with x^_0 as frame 0, (b, 3, t, h, w): recoupling without the residual."""
        state = CodingState()
        prediction, first = self._predict_chunk(latents, state)
        if prediction is None:
            return as_frame(state.decoded_keyframe)
        return torch.cat([first, prediction], dim=2) if first is not None else prediction

    def components_chunk(self, video: torch.Tensor, state: CodingState) -> dict[str, torch.Tensor]:
        """`vae.coding.shown_components` of a chunk."""
        return shown_components(self._code_and_decode(video, state, sample=False, generator=None))

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Section 3 of the paper in one pass."""
        self.check_video(video)
        coding = self._code_and_decode(video, CodingState(), sample, generator)
        pairs = component_pairs(coding, video, closed_loop=self.architecture.residual_reference == "decoded")
        return Coded(coding.posterior, coding.latents, coding.reconstruction, pairs, coding_statistics(coding))

    def motion_modules(self) -> list[nn.Module]:
        """M, if there is one."""
        return [self.motion_module] if self.architecture.motion else []

    def keyframe_modules(self) -> list[nn.Module]:
        """E_k with its half of the bottleneck."""
        return [self.encoders["keyframe"], self.measurements["keyframe"]]

    # ------------------------------------------------------------------ coding

    def _code_and_decode(self, video: torch.Tensor, state: CodingState, sample: bool, generator: Generators) -> Coding:
        coding = self._code(video, state, sample, generator)
        coding.decoded_residual = self._decode_part("residual", coding.latents, state, coding.prediction)  # r^
        frames = recouple(coding.prediction, coding.decoded_residual)  # Eq. 8
        coding.reconstruction = coding.with_first_frame(frames, as_frame(coding.decoded_keyframe))
        return coding

    def _code(self, video: torch.Tensor, state: CodingState, sample: bool, generator: Generators) -> Coding:
        config = self.architecture
        starts_clip = state.keyframe is None
        frames, keyframe_coding = video, {}
        if starts_clip:
            state.keyframe, rest = split_keyframe(video)
            copies = video.shape[2] if config.keyframe_mode == "repeat" else 1
            stack = repeat(state.keyframe, "b c h w -> b c t h w", t=copies)  # Eq. 7: X_k = T (x) x_0
            posterior = self._measure("keyframe", stack, state)
            latents = {"keyframe": posterior.sample(generator) if sample else posterior.mean}
            state.decoded_keyframe = self._decode_part("keyframe", latents, state).mean(dim=2)  # x^_0
            keyframe_coding = {"posterior": {"keyframe": posterior}, "latents": latents}
            frames = video if config.first_frame_latent else rest
        holds_first = starts_clip and config.first_frame_latent
        coding = Coding(state.keyframe, state.decoded_keyframe, starts_clip, holds_first, **keyframe_coding)
        if frames.shape[2] == 0:
            return self._code_no_frames(coding, frames)

        def take(part: str, posterior: Gaussian) -> None:
            coding.posterior[part] = posterior
            coding.latents[part] = posterior.sample(generator) if sample else posterior.mean  # Eq. 2

        if config.motion:
            coding.motion = self.motion_module(frames, state.keyframe)  # Eq. 4
            take("motion", self._measure("motion", normalise_motion(coding.motion), state))
            coding.decoded_motion = denormalise_motion(self._decode_part("motion", coding.latents, state))  # m^
        closed_loop, num_frames = config.residual_reference == "decoded", frames.shape[2]
        # In the closed loop the residual makes good what x^_0 and m^ lack, and both have their own losses: no gradient
        # through the warp while M is frozen (measured: a tenth less time per step for less than 0.1 dB, and a keyframe
        # 0.9 dB better). M itself learns from the warp.
        keyframe, motion = state.decoded_keyframe, coding.decoded_motion
        if closed_loop:
            keyframe = keyframe.detach()
            if motion is not None and coding.motion is not None and not coding.motion.requires_grad:
                motion = motion.detach()
        reference = coding.prediction = predict(keyframe, motion, num_frames)
        if not closed_loop:
            reference = predict(state.keyframe, coding.motion, num_frames)
        coding.residual = decouple(frames, reference)  # Eq. 6
        take("residual", self._measure("residual", coding.residual, state))
        return coding

    def _measure(self, part: str, component: torch.Tensor, state: CodingState) -> Gaussian:
        """Eq. 1: a component (b, c, t, h, w) -> the posterior of its latent."""

        def network(tile: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
            key = (f"{part}_encoder", place)
            features, state.past[key] = self.encoders[part](tile, state.past.get(key))
            posterior = self.measurements[part](features)
            return torch.cat([posterior.mean, posterior.log_variance], dim=1)

        moments = self.by_tiles(network, component, self.architecture.downscale(part), self.size_multiple)
        half = moments.shape[1] // 2
        return Gaussian(*moments.split([half, half], dim=1))

    def _code_no_frames(self, coding: Coding, frames: torch.Tensor) -> Coding:
        """A single image: motion and residual are there, with no frames."""
        coding.prediction = coding.residual = at_least_fp32(frames)
        height, width = (size // self.size_multiple for size in frames.shape[-2:])
        for part in self.architecture.parts[1:]:
            channels = getattr(self.architecture.latent_channels, part)
            empty = at_least_fp32(frames.new_zeros(frames.shape[0], channels, 0, height, width))
            coding.posterior[part], coding.latents[part] = Gaussian(empty, empty), empty
        return coding

    def _predict_chunk(self, latents: Latents, state: CodingState) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """W(x^_0, m^) of the frames that have a residual (or None), and x^_0 where it stands before them (or None)."""
        starts_clip = state.decoded_keyframe is None
        if starts_clip:
            state.decoded_keyframe = self._decode_part("keyframe", latents, state).mean(dim=2)  # x^_0
        num_groups, holds_first = latents["residual"].shape[2], self.architecture.first_frame_latent and starts_clip
        if num_groups == 0:
            return None, None
        num_frames = TEMPORAL_COMPRESSION * (num_groups - int(holds_first)) + int(holds_first)
        motion = None
        if self.architecture.motion:
            motion = denormalise_motion(self._decode_part("motion", latents, state))
        prediction = predict(state.decoded_keyframe, motion, num_frames)
        return prediction, as_frame(state.decoded_keyframe) if starts_clip and not holds_first else None

    def _decode_part(
        self, part: str, latents: Latents, state: CodingState, prediction: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Eq. 3: the latent of one part -> its component (b, 3, t, h, w), fp32."""
        config, latent, name = self.architecture, latents[part], f"{part}_decoder"
        if latent.shape[2] == 0:  # a single image
            size = (self.size_multiple * cells for cells in latent.shape[-2:])
            return latent.new_zeros(latent.shape[0], PIXEL_CHANNELS, 0, *size)
        sees_prediction = part == "residual" and config.residual_context
        channels, x = latent.shape[1], latent
        if sees_prediction:
            x = torch.cat([latent, self._context_features(prediction, latent.shape[2])], dim=1)

        def network(tile: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
            past = state.past.get((name, place))
            coded, context = torch.einsum("bcthw->bthwc", tile).split([channels, tile.shape[1] - channels], dim=-1)
            features = self.projections[config.projection_name(part)](coded)
            recovery_past = None
            if config.shares_decoder(part):
                phi = self.measurements[part].phi
                features, recovery_past = self.recovery(features, coded, phi, past and past["recovery"])
            if sees_prediction:
                features = features + context
            decoder = self.decoder if config.shares_decoder(part) else self.motion_decoder
            starts_with_image = past is None and (part == "keyframe" or config.first_frame_latent)
            component, new_past = decoder(features, starts_with_image, past and past["decoder"])
            state.past[name, place] = {"recovery": recovery_past, "decoder": new_past}
            return component

        return self.by_tiles(network, x, self.size_multiple, config.downscale(part))

    def _context_features(self, prediction: torch.Tensor, num_latent_frames: int) -> torch.Tensor:
        """The prediction as the residual's decoder sees it: (b, width, t', h', w')."""
        num_images = prediction.shape[2] % 2  # a first frame of its own has no context: there r_0 = x_0 - x^_0
        _, groups = prediction.split([num_images, prediction.shape[2] - num_images], dim=2)
        features = torch.cat(self.context(haar_spatiotemporal(groups)), dim=-1)
        missing = num_latent_frames - features.shape[1]
        features = nn.functional.pad(features, (0, 0, 0, 0, 0, 0, missing, 0)) if missing else features
        return torch.einsum("bthwc->bcthw", features)
