"""DeCo-VAE (arXiv 2511.14530): a clip is decoupled into keyframe, motion and residual, each with its own encoder, one
decoder shared by all, and recoupled. Deviations from the paper are options of `DecoVaeConfig`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange, repeat
from torch import nn

from vae.bottleneck import LinearRecovery, Measurement, SparseRecovery
from vae.coding import Coding, CodingState
from vae.deco_vae_config import DecoVaeConfig
from vae.decoder import Decoder
from vae.decoupling import decouple, denormalise_motion, normalise_motion, predict, recouple, split_keyframe
from vae.encoder import PIXEL_CHANNELS, Encoder, PatchProjection
from vae.gaussian import Gaussian, Generators
from vae.interface import (
    TEMPORAL_COMPRESSION,
    Coded,
    ComponentPair,
    Encoding,
    Latents,
    VideoAutoencoder,
    typed_config,
)
from vae.motion_module import MotionModule
from vae.wavelet import SPATIOTEMPORAL_NUM_BANDS, haar_spatiotemporal


class DeCoVAE(VideoAutoencoder):
    """Three encoders, one shared decoder. Interface: `VideoAutoencoder`; options: `DecoVaeConfig`."""

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        self.architecture = config = typed_config(DecoVaeConfig, architecture)
        self.size_multiple = 2 * config.patch_size
        self.causal = config.keyframe_mode == "single"
        patch, width, channels = config.patch_size, config.decoder.width, asdict(config.latent_channels)
        first = config.first_frame_latent
        # E_k, E_m, E_r of Eq. 1. Each part's half of the bottleneck (its measurement) belongs to its encoder.
        self.encoders = nn.ModuleDict()
        self.measurements = nn.ModuleDict()
        for part in config.parts:
            size = config.encoder(part)
            if part == "keyframe":
                encoder = Encoder(size, patch, first_frame=True, groups=config.keyframe_mode == "repeat")
            else:
                encoder = Encoder(size, patch, first_frame=first, groups=True)
            self.encoders[part] = encoder
            self.measurements[part] = Measurement(size.width, config.decoder_of(part).width, channels[part])
        # D of Eq. 3, and what brings each latent to its width.
        self.decoder = Decoder(config.decoder, patch, first_frame=True, groups=True)
        self.recovery = SparseRecovery(width) if config.bottleneck == "compressed_sensing" else LinearRecovery()
        self.projections = nn.ModuleDict(
            {name: nn.Linear(channels[part], config.decoder_of(part).width, bias=False)
             for part in config.parts for name in [config.projection_name(part)]}
        )  # fmt: skip
        if config.residual_context:
            self.context = PatchProjection(SPATIOTEMPORAL_NUM_BANDS, (2, patch, patch), config.decoder, PIXEL_CHANNELS)
        if config.motion:
            self.motion_module = MotionModule(asdict(config.motion_module))
            if config.motion_decoder == "small":
                self.motion_decoder = Decoder(config.small_motion_decoder, patch, first_frame=first, groups=True)

    # ------------------------------------------------------------------ interface

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> (c, t', h', w') of every part."""
        num_frames, height, width = clip_shape
        config, groups = self.architecture, (num_frames - 1) // TEMPORAL_COMPRESSION
        size = (height // self.size_multiple, width // self.size_multiple)
        return {
            part: (getattr(config.latent_channels, part), config.latent_frames(part, groups), *size)
            for part in config.parts
        }

    def encode(self, video: torch.Tensor, sample: bool = False, generator: Generators = None) -> Encoding:
        """video: (b, 3, 4n + 1, h, w) in [-1, 1]. In the closed loop the residual depends on the latents used."""
        self.check_video(video)
        coding = self._encode(video, CodingState(), sample, generator)
        return Encoding(coding.posterior, coding.latents)

    def decode(self, latents: Latents) -> torch.Tensor:
        """{part: latent} -> video (b, 3, t, h, w), not clipped."""
        return self._decode(latents, CodingState())

    def encode_chunks(self, chunks: Iterable[torch.Tensor]) -> Iterator[Encoding]:
        """Encode 1 + 4n frames, then 4n at a time: equals encoding the whole, in constant memory."""
        self._require_causal()
        state = CodingState()
        for chunk in chunks:
            coding = self._encode(chunk, state, sample=False, generator=None)
            yield Encoding(coding.posterior, coding.latents)

    def decode_chunks(self, chunks: Iterable[Latents]) -> Iterator[torch.Tensor]:
        """Decode what `encode_chunks` gave, chunk by chunk; only the first has a keyframe."""
        self._require_causal()
        state = CodingState()
        for latents in chunks:
            yield self._decode(latents, state)

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Section 3 of the paper in one pass."""
        self.check_video(video)
        state = CodingState()
        coding = self._encode(video, state, sample, generator)
        residual = self._decode_part("residual", coding.latents, state, coding.prediction)  # r^
        frames = recouple(coding.prediction, residual)  # Eq. 8
        reconstruction = frames if self.architecture.first_frame_latent else self._prepend_keyframe(frames, state)
        return Coded(
            coding.posterior,
            coding.latents,
            reconstruction,
            self._component_pairs(video, coding, state, residual, reconstruction),
            self._statistics(coding),
        )

    def motion_modules(self) -> list[nn.Module]:
        """M, if there is one."""
        return [self.motion_module] if self.architecture.motion else []

    def keyframe_modules(self) -> list[nn.Module]:
        """E_k with its half of the bottleneck."""
        return [self.encoders["keyframe"], self.measurements["keyframe"]]

    def decode_components(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every component before and after coding, for pictures and scores: (b, 3, t, h, w) each.

        Keys: keyframe, motion (pixels, level), residual, warped = W(x_0, m), and the same with `decoded_` in front
        (decoded_warped = W(x^_0, m^)), and reconstruction.
        """
        self.check_video(video)
        state = CodingState()
        coding = self._encode(video, state, sample=False, generator=None)
        decoded_residual = self._decode_part("residual", coding.latents, state, coding.prediction)
        true_warped = predict(state.keyframe, coding.motion, coding.prediction.shape[2])
        first, decoded_first = (repeat(x, "b c h w -> b c 1 h w") for x in (state.keyframe, state.decoded_keyframe))
        nothing = torch.zeros_like(coding.prediction)
        motion, decoded_motion = (nothing if x is None else x for x in (coding.motion, coding.decoded_motion))
        components = {  # name: (frames, what frame 0 is where these do not hold it)
            "motion": (motion, 0 * first),
            "decoded_motion": (decoded_motion, 0 * first),
            "residual": (coding.residual, 0 * first),
            "decoded_residual": (decoded_residual, 0 * first),
            "warped": (true_warped, first),
            "decoded_warped": (coding.prediction, decoded_first),
            "reconstruction": (recouple(coding.prediction, decoded_residual), decoded_first),
        }
        if not self.architecture.first_frame_latent:
            components = {name: (torch.cat([start, x], dim=2), start) for name, (x, start) in components.items()}
        shown = {name: x for name, (x, _) in components.items()}
        return shown | {"keyframe": first.expand_as(video), "decoded_keyframe": decoded_first.expand_as(video)}

    # ------------------------------------------------------------------ coding

    def _encode(self, video: torch.Tensor, state: CodingState, sample: bool, generator: Generators) -> Coding:
        config, coding = self.architecture, Coding()
        frames = video
        if state.keyframe is None:
            state.keyframe, rest = split_keyframe(video)
            copies = video.shape[2] if config.keyframe_mode == "repeat" else 1
            stack = repeat(state.keyframe, "b c h w -> b c t h w", t=copies)  # Eq. 7: X_k = T (x) x_0
            self._measure("keyframe", stack, coding, state, sample, generator)
            state.decoded_keyframe = self._decode_part("keyframe", coding.latents, state).mean(dim=2)  # x^_0
            frames = video if config.first_frame_latent else rest
        if frames.shape[2] == 0:
            return self._code_no_frames(coding, frames)
        if config.motion:
            coding.motion = self.motion_module(frames, state.keyframe)  # Eq. 4
            self._measure("motion", normalise_motion(coding.motion), coding, state, sample, generator)
            coding.decoded_motion = denormalise_motion(self._decode_part("motion", coding.latents, state))  # m^
        reference = coding.prediction = predict(state.decoded_keyframe, coding.decoded_motion, frames.shape[2])
        if config.residual_reference == "original":  # open loop
            reference = predict(state.keyframe, coding.motion, frames.shape[2])
        coding.residual = decouple(frames, reference)  # Eq. 6
        self._measure("residual", coding.residual, coding, state, sample, generator)
        return coding

    def _measure(
        self,
        part: str,
        component: torch.Tensor,
        coding: Coding,
        state: CodingState,
        sample: bool,
        generator: Generators,
    ) -> None:
        name = f"{part}_encoder"
        features, state.past[name] = self.encoders[part](component, state.past.get(name))
        coding.posterior[part] = posterior = self.measurements[part](features)  # Eq. 1
        coding.latents[part] = posterior.sample(generator) if sample else posterior.mean  # Eq. 2

    def _code_no_frames(self, coding: Coding, frames: torch.Tensor) -> Coding:
        """A single image: motion and residual are there, with no frames."""
        coding.prediction = coding.residual = coding.motion = coding.decoded_motion = frames.float()
        height, width = (size // self.size_multiple for size in frames.shape[-2:])
        for part in self.architecture.parts[1:]:
            channels = getattr(self.architecture.latent_channels, part)
            empty = frames.new_zeros(frames.shape[0], channels, 0, height, width).float()
            coding.posterior[part], coding.latents[part] = Gaussian(empty, empty), empty
        return coding

    def _decode(self, latents: Latents, state: CodingState) -> torch.Tensor:
        is_first_chunk = state.decoded_keyframe is None
        if is_first_chunk:
            state.decoded_keyframe = self._decode_part("keyframe", latents, state).mean(dim=2)
        assert state.decoded_keyframe is not None
        num_groups = latents["residual"].shape[2]
        if num_groups == 0:
            return rearrange(state.decoded_keyframe, "b c h w -> b c 1 h w")
        starts_with_image = self.architecture.first_frame_latent and is_first_chunk
        num_frames = TEMPORAL_COMPRESSION * (num_groups - int(starts_with_image)) + int(starts_with_image)
        motion = None
        if self.architecture.motion:
            motion = denormalise_motion(self._decode_part("motion", latents, state))
        prediction = predict(state.decoded_keyframe, motion, num_frames)
        frames = recouple(prediction, self._decode_part("residual", latents, state, prediction))  # Eq. 8
        if is_first_chunk and not self.architecture.first_frame_latent:
            return self._prepend_keyframe(frames, state)
        return frames

    def _decode_part(
        self, part: str, latents: Latents, state: CodingState, prediction: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Eq. 3: the latent of one part -> its component (b, 3, t, h, w), fp32."""
        config, name = self.architecture, f"{part}_decoder"
        past = state.past.get(name)
        if latents[part].shape[2] == 0:  # a single image
            size = (self.size_multiple * cells for cells in latents[part].shape[-2:])
            return latents[part].new_zeros(latents[part].shape[0], PIXEL_CHANNELS, 0, *size)
        latent = torch.einsum("bcthw->bthwc", latents[part])
        features = self.projections[config.projection_name(part)](latent)
        recovery_past = None
        if config.shares_decoder(part):
            phi = self.measurements[part].phi
            features, recovery_past = self.recovery(features, latent, phi, past and past["recovery"])
        if part == "residual" and config.residual_context:
            features = features + self._context_features(prediction, latent.shape[1])
        decoder = self.decoder if config.shares_decoder(part) else self.motion_decoder
        starts_with_image = past is None and (part == "keyframe" or config.first_frame_latent)
        component, new_past = decoder(features, starts_with_image, past and past["decoder"])
        state.past[name] = {"recovery": recovery_past, "decoder": new_past}
        return component

    def _context_features(self, prediction: torch.Tensor, num_latent_frames: int) -> torch.Tensor:
        """The prediction as the residual's decoder sees it: (b, t', h', w', width)."""
        num_images = prediction.shape[2] % 2  # a first frame of its own has no context: there r_0 = x_0 - x^_0
        _, groups = prediction.split([num_images, prediction.shape[2] - num_images], dim=2)
        features = torch.cat(self.context(haar_spatiotemporal(groups)), dim=-1)
        missing = num_latent_frames - features.shape[1]
        return nn.functional.pad(features, (0, 0, 0, 0, 0, 0, missing, 0)) if missing else features

    @staticmethod
    def _prepend_keyframe(frames: torch.Tensor, state: CodingState) -> torch.Tensor:
        return torch.cat([rearrange(state.decoded_keyframe, "b c h w -> b c 1 h w"), frames], dim=2)

    # ------------------------------------------------------------------ for the losses

    def _component_pairs(
        self,
        video: torch.Tensor,
        coding: Coding,
        state: CodingState,
        residual: torch.Tensor,
        reconstruction: torch.Tensor,
    ) -> dict[str, ComponentPair]:
        first = self.architecture.first_frame_latent
        decoded, true = (rearrange(x, "b c h w -> b c 1 h w") for x in (state.decoded_keyframe, state.keyframe))
        pairs = {"keyframe": ComponentPair(decoded, true, True)}
        if self.architecture.motion:  # targets are detached: the data must not move towards its reconstruction
            target = normalise_motion(coding.motion.detach())
            pairs["motion"] = ComponentPair(normalise_motion(coding.decoded_motion), target, first)
        if self.architecture.residual_reference == "original":
            pairs["residual"] = ComponentPair(residual, coding.residual.detach(), first)
        else:  # closed loop: r^ - r = x^ - x, the residual's component loss is the video's
            pairs["video"] = ComponentPair(reconstruction, video, True)
        return pairs

    def _statistics(self, coding: Coding) -> dict[str, torch.Tensor]:
        """Watched against drift into blur when the motion module is trained along."""
        statistics = {"mean_abs_residual": coding.residual.detach().abs().mean()}
        if coding.motion is not None:
            flow, level = coding.motion.detach().split([2, 1], dim=1)
            statistics |= {"mean_abs_flow_pixels": flow.abs().mean(), "mean_level": level.mean()}
        return statistics

    def _require_causal(self) -> None:
        if not self.causal:
            raise ValueError("keyframe_mode 'repeat' averages over the whole clip and cannot be coded in chunks")
