"""Options of train_motion: the section `motion`."""

from dataclasses import dataclass, field

from pipelines.inputs.options.clip_loop import ClipLoopConfig
from vae.motion_trainer import MotionLossConfig


@dataclass(frozen=True)
class MotionSection:
    """Self-supervised training of the motion module; its size stands in vae.deco_vae.motion_module."""

    init_from: str = ""  # run or model folder, or CompressAI ssf2020 file, to start from; empty = random weights
    losses: MotionLossConfig = field(default_factory=MotionLossConfig)  # what it is trained on
    loop: ClipLoopConfig = field(default_factory=ClipLoopConfig)  # how long and how it is trained
    validation_clips: int = 64  # held-out clips scored at each validation
