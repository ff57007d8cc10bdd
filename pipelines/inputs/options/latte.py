"""Options of train_latte: the section `latte`."""

from dataclasses import dataclass, field

from latte.config import LatteConfig
from pipelines.run.ema_snapshots import SnapshotLoopConfig


@dataclass(frozen=True)
class LatteSection(LatteConfig):
    """The diffusion transformer and its training."""

    init_from: str = ""  # run, model folder or published checkpoint to start from: what fits is taken; empty = random
    compile: bool = False  # torch.compile of the blocks; needs a C++ compiler
    shard_weights: bool = False  # split weights, averages and moments over the processes (FSDP2), to save GPU memory
    loop: SnapshotLoopConfig = field(default_factory=SnapshotLoopConfig)  # how long and how it is trained
    sample_posterior: bool = (
        False  # train on a new draw per clip and step, not on the mean; open-loop autoencoders only
    )
    validation_clips: int = 128  # held-out clips whose loss is measured at each validation
    preview_per_class: int = 2  # samples per class in the pictures during training
    preview_classes: int = 8  # classes in the pictures during training
