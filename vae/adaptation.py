"""Decoupled adaptation (DeCo-VAE 3.3): which modules train in which phase.

Phase 1 freezes the motion module M: motion is a fixed function of the clip. Phase 2 freezes the keyframe encoder and
trains M along. The start of phase 2 and of the adversarial loss are separate settings, so that each can be ablated.
"""

from __future__ import annotations

from dataclasses import dataclass

from vae.interface import VideoAutoencoder


@dataclass(frozen=True)
class AdaptationConfig:
    """The two phases; models without a keyframe encoder or a motion module have nothing to freeze."""

    phase_two_step: int = 400_000  # first step of phase 2; -1 = never
    freeze_keyframe_encoder: bool = True  # in phase 2
    train_motion_module: bool = True  # in phase 2
    motion_lr_scale: float = 0.1  # learning rate of the motion module relative to the others


def set_phase(model: VideoAutoencoder, config: AdaptationConfig, step: int) -> int:
    """Set requires_grad of every parameter for this step; returns the phase, 1 or 2."""
    phase = 2 if 0 <= config.phase_two_step <= step else 1
    model.requires_grad_(True)
    frozen = []
    if phase == 1 or not config.train_motion_module:
        frozen += model.motion_modules()
    if phase == 2 and config.freeze_keyframe_encoder:
        frozen += model.keyframe_modules()
    for module in frozen:
        module.requires_grad_(False)
    return phase
