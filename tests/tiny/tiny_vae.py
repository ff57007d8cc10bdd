"""Autoencoders small enough for tests, one per configuration worth testing, and a clip."""

from dataclasses import asdict

import torch

from vae.deco_vae_config import DecoVaeConfig, LatentChannels
from vae.encoder import BackboneConfig
from vae.interface import VideoAutoencoder
from vae.motion_module import MotionModuleConfig
from vae.registry import MODELS
from vae.rivals.concat_vae import ConcatVaeConfig
from vae.rivals.plain_vae import PlainVaeConfig

TINY = BackboneConfig(low_width=8, high_width=16, separate_blocks=1, fusion_blocks=1)
NARROW = BackboneConfig(low_width=4, high_width=8, separate_blocks=1, fusion_blocks=1)
SIZES = {
    "keyframe_encoder": TINY,
    "residual_encoder": TINY,
    "decoder": TINY,
    "motion_module": MotionModuleConfig(width=8),
}
DEFAULT = SIZES | {
    "motion_encoder": NARROW,
    "small_motion_decoder": NARROW,
    "latent_channels": LatentChannels(6, 2, 4),
}
PAPER = SIZES | {
    "motion_encoder": TINY,
    "latent_channels": LatentChannels(4, 4, 4),
    "shared_projection": True,
    "keyframe_mode": "repeat",
    "first_frame_latent": True,
    "residual_reference": "original",
    "residual_context": False,
    "motion_decoder": "shared",
    "motion_module": MotionModuleConfig(width=8, downscale=1),
}
# name -> (registry name, architecture)
VARIANTS = {
    "plain": ("plain_vae", PlainVaeConfig(encoder=TINY, decoder=TINY, latent_channels=6)),
    "default": ("deco_vae", DecoVaeConfig(**DEFAULT)),
    "linear": ("deco_vae", DecoVaeConfig(**DEFAULT, bottleneck="linear")),
    "no_motion": ("deco_vae", DecoVaeConfig(**DEFAULT, motion=False)),
    "open_loop": ("deco_vae", DecoVaeConfig(**DEFAULT, residual_reference="original")),
    "first_frame_latent": ("deco_vae", DecoVaeConfig(**DEFAULT, first_frame_latent=True)),
    "paper": ("deco_vae", DecoVaeConfig(**PAPER)),
    "concat": ("concat_vae", ConcatVaeConfig(TINY, TINY, latent_channels=6, motion_module=MotionModuleConfig(width=8))),
}


def untrained(variant: str) -> VideoAutoencoder:
    """The named variant as it is built."""
    name, architecture = VARIANTS[variant]
    return MODELS[name](asdict(architecture))


with torch.device("meta"):
    CAUSAL = [variant for variant in VARIANTS if untrained(variant).causal]
    DECOUPLED = [variant for variant in VARIANTS if "warped" in untrained(variant).picture_rows]


def tiny_vae(variant: str, seed: int = 0) -> VideoAutoencoder:
    """The named variant with seeded weights whose motion is not the identity."""
    torch.manual_seed(seed)
    model = untrained(variant)
    with torch.no_grad():
        for module in model.motion_modules():
            module.motion_decoder[-1].weight.mul_(20)
    return model


def clip(batch: int = 2, num_frames: int = 9, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """A smooth random video (b, 3, t, h, w) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((batch, 3, 4, 6, 6), generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(num_frames, height, width), mode="trilinear")
