"""Options of DeCo-VAE. The defaults are ours at full width; comments name the paper's value where it differs."""

from __future__ import annotations

from dataclasses import dataclass, field

from vae.bottleneck import BOTTLENECKS
from vae.choices import check_choices
from vae.encoder import BackboneConfig
from vae.interface import TEMPORAL_COMPRESSION
from vae.motion_module import MotionModuleConfig

SMALL_BACKBONE = BackboneConfig(low_width=32, high_width=96, separate_blocks=1, fusion_blocks=2)


@dataclass(frozen=True)
class LatentChannels:
    """Latent channels of each part; the paper has 16 / 16 / 16."""

    keyframe: int = 24  # channels of the keyframe's latent
    motion: int = 1  # channels of the motion's latent
    residual: int = 38  # channels of the residual's latent


@dataclass(frozen=True)
class DecoVaeConfig:
    """Architecture of DeCo-VAE; the defaults are ours at full width."""

    keyframe_encoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the keyframe's encoder
    motion_encoder: BackboneConfig = field(
        default_factory=lambda: SMALL_BACKBONE
    )  # the motion's (paper: as the others)
    residual_encoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the residual's encoder
    decoder: BackboneConfig = field(default_factory=BackboneConfig)  # size of the shared decoder
    small_motion_decoder: BackboneConfig = field(default_factory=lambda: SMALL_BACKBONE)  # the motion's own decoder
    patch_size: int = 4  # patch height and width after the wavelet; 4 gives 1/8 of the pixels
    latent_channels: LatentChannels = field(default_factory=LatentChannels)  # latent channels of each part
    bottleneck: str = "compressed_sensing"  # compressed_sensing (LeanVAE's ISTA) or linear
    shared_projection: bool = False  # one latent projection for all parts (paper), needs equal latent channels
    keyframe_mode: str = "single"  # single: the keyframe is one image; repeat: t copies, averaged over time (paper)
    first_frame_latent: bool = False  # motion and residual have a latent for frame 0 too (paper)
    residual_reference: str = "decoded"  # decoded: closed loop, as in video codecs; original: Eq. 6 (paper)
    residual_context: bool = True  # the residual's decoder also sees the prediction (paper: false)
    recoupling: str = "additive"  # additive: Eq. 8 | gated: a decoded gate replaces the prediction by decoded content
    overlapping_patches: bool = False  # the low bands of decoded patches reach over half of their neighbours: no grid
    motion: bool = True  # false: no motion part, the keyframe is the prediction
    motion_decoder: str = "small"  # small: the motion has its own decoder; shared (paper)
    motion_module: MotionModuleConfig = field(default_factory=MotionModuleConfig)  # size of the motion module

    def __post_init__(self) -> None:
        check_choices(
            self,
            "vae.deco_vae",
            bottleneck=BOTTLENECKS,
            keyframe_mode=("single", "repeat"),
            residual_reference=("decoded", "original"),
            motion_decoder=("small", "shared"),
            recoupling=("additive", "gated"),
        )
        channels = self.latent_channels
        if self.shared_projection and not channels.keyframe == channels.motion == channels.residual:
            raise ValueError(f"vae.deco_vae.shared_projection needs equal latent_channels, got {channels}")
        if self.shared_projection and self.motion and self.motion_decoder == "small":
            raise ValueError("vae.deco_vae.shared_projection needs vae.deco_vae.motion_decoder=shared")
        if self.motion and self.motion_decoder == "shared" and self.motion_module.downscale > 1:
            raise ValueError("vae.deco_vae.motion_decoder shared needs vae.deco_vae.motion_module.downscale=1")
        if self.patch_size % self.motion_module.downscale:
            raise ValueError(
                f"vae.deco_vae.patch_size is {self.patch_size}, but must be even for motion_module.downscale=2"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the latents, in coding order."""
        return ("keyframe", "motion", "residual") if self.motion else ("keyframe", "residual")

    def encoder(self, part: str) -> BackboneConfig:
        """Size of a part's encoder."""
        return {
            "keyframe": self.keyframe_encoder,
            "motion": self.motion_encoder,
            "residual": self.residual_encoder,
        }[part]

    def downscale(self, part: str) -> int:
        """How many pixels of the video a pixel of this component is wide."""
        return self.motion_module.downscale if part == "motion" else 1

    def part_patch_size(self, part: str) -> int:
        """Patch size of a part: all parts have the same latent grid."""
        return self.patch_size // self.downscale(part)

    def shares_decoder(self, part: str) -> bool:
        """Whether a part is decoded by the shared decoder."""
        return part != "motion" or self.motion_decoder == "shared"

    def decoder_of(self, part: str) -> BackboneConfig:
        """Size of the decoder that a part uses."""
        return self.decoder if self.shares_decoder(part) else self.small_motion_decoder

    def projection_name(self, part: str) -> str:
        """Key of the linear layer that brings a part's latent to its decoder's width."""
        return "shared" if self.shared_projection else part

    def latent_frames(self, part: str, num_groups: int) -> int:
        """Latent frames of a part for a clip of 1 + 4 num_groups frames."""
        if part == "keyframe":
            return 1 + num_groups if self.keyframe_mode == "repeat" else 1
        return num_groups + int(self.first_frame_latent)

    def num_frames(self, latent_frames: int, starts_clip: bool) -> int:
        """Frames that so many latent frames of motion or residual stand for; starts_clip: they are a clip's first."""
        images = int(starts_clip and self.first_frame_latent)
        return images + TEMPORAL_COMPRESSION * (latent_frames - images)
