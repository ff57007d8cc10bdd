"""Options of train_vae: the section `vae`."""

from dataclasses import dataclass, field

from pipelines.inputs.options.clip_loop import ClipLoopConfig
from vae.adaptation import AdaptationConfig
from vae.objective import GanConfig, LossConfig
from vae.registry import AutoencoderConfig


@dataclass(frozen=True)
class VaeSection(AutoencoderConfig):
    """The autoencoder and its training."""

    motion_from: str = ""  # run or model folder, or CompressAI ssf2020 file; empty = this run's train_motion
    init_from: str = ""  # run or model folder whose autoencoder weights to start from; empty = random weights
    losses: LossConfig = field(default_factory=LossConfig)  # weights of the loss terms
    gan: GanConfig = field(default_factory=GanConfig)  # the adversarial part
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)  # the two training phases
    gradient_checkpointing: bool = False  # recompute activations in the backward pass to save memory
    compile: bool = False  # torch.compile of the residual blocks; needs a C++ compiler
    loop: ClipLoopConfig = field(default_factory=ClipLoopConfig)  # how long and how it is trained
    validation_clips: int = 64  # held-out clips scored at each validation
