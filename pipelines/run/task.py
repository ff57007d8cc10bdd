"""What is trained and how: the options of a training loop, and the protocol of a task. The loop does the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class LoopConfig:
    """What every training loop reads; a stage whose loop reads more has a subclass of it."""

    steps: int = 1000  # training steps in all; a finished run given more goes on
    global_batch_size: int = 8  # samples per step, over all processes
    micro_batch_size: int = 0  # samples at once in one process, against running out of memory; 0 = its whole share
    lr: float = 1e-4  # learning rate after the warm-up
    optimizer: str = "adamw"  # adam, adamw, or muon (train_latte only: its hidden matrices by Muon, the rest by adamw)
    betas: tuple[float, ...] = (0.9, 0.999)  # decay of the optimiser's two moments
    weight_decay: float = 0.0  # weight decay per step, relative to the learning rate (adamw)
    warmup_steps: int = 0  # steps over which the learning rate rises linearly
    schedule: str = "constant"  # constant or cosine (to zero at the last step)
    clip_grad_norm: float = 1.0  # largest gradient norm per player; 0 = no clipping
    ema_decay: float = 0.999  # decay per step of the averaged weights; 0 = no averaging
    ema_warmup: bool = True  # a lower decay in the first steps, so that the first weights are soon forgotten
    precision: str = "fp32"  # fp32 or bf16 (autocast; weights stay fp32)
    log_every: int = 10  # steps between two lines of metrics.jsonl
    validate_every: int = 0  # steps between two validations; 0 = at the end only
    preview_every: int = 0  # steps between two sets of pictures; 0 = never
    checkpoint_every: int = 500  # steps between two checkpoints; 0 = at the end only
    keep_checkpoints: int = 2  # how many checkpoints stay on the disk

    def __post_init__(self) -> None:
        choices = {
            "optimizer": ("adam", "adamw", "muon"),
            "schedule": ("constant", "cosine"),
            "precision": ("fp32", "bf16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {' or '.join(allowed)}")
        require_least(self, dict.fromkeys(("global_batch_size", "log_every", "keep_checkpoints"), 1))
        intervals = ("validate_every", "preview_every", "checkpoint_every")
        others = ("steps", "micro_batch_size", "lr", "warmup_steps", "clip_grad_norm", "ema_decay")
        require_least(self, dict.fromkeys((*others, *intervals), 0))
        if self.ema_decay >= 1 or len(self.betas) != 2:
            raise ValueError(f"ema_decay must be below 1 and betas two numbers, but are {self.ema_decay}, {self.betas}")


def require_least(config: LoopConfig, lowest: Mapping[str, float]) -> None:
    """Raise ValueError for an option {name: lowest value} that is below it."""
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}, but must be {least} or more")


def may_change(prefix: str) -> tuple[str, ...]:
    """The options of a LoopConfig at `prefix` ("vae.loop") with which a run may go on changed: for StageFolder.open."""
    intervals = ("log_every", "validate_every", "preview_every", "checkpoint_every")
    names = ("steps", "micro_batch_size", *intervals, "keep_checkpoints")
    return tuple(f"{prefix}.{name}" for name in names)


class TrainingTask(Protocol):
    """What is trained: modules, data, losses and pictures. The loop does the rest."""

    stage: str  # name in random keys and messages
    # A player is a module with an optimiser and a loss of its own; those of a step are updated in this order, such as
    # {"vae": ..., "discriminator": ...}.
    players: dict[str, torch.nn.Module]
    ema_player: str  # the one whose averaged weights are validated and published; it has save_pretrained
    best_metric: tuple[str, str]  # name among validate's values, and "max" or "min"

    def prepare_step(self, step: int) -> list[str]:
        """Set requires_grad for the phase that `step` belongs to; return the players that this step updates."""

    def parameter_groups(self, player: str) -> list[dict]:
        """ALL parameters of a player as torch groups; an entry "lr_scale" multiplies the learning rate, "hidden": True
        marks matrices that optimizer=muon updates by Muon."""

    def loss(self, player: str, batch: dict, draws: Any, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise, a mean over the batch, and scalars to log. Random numbers come from `draws` only."""

    def validate(self, model: Any, step: int) -> dict[str, float]:
        """Scores of `model`, which carries the averaged weights; {} for nothing to score. Gradients are off."""

    def preview(self, model: Any, folder: Path, step: int) -> None:
        """Write pictures into `folder`; `model` as in `validate`."""

    def batches(self, first_step: int) -> Iterator[dict]:
        """Without end: this process's share of the global batch of each step from `first_step` on.

        Tensors and lists have a leading batch axis; "index" holds the positions in the global batch, "path" the names.
        """

    def extra_state(self) -> dict[str, torch.Tensor]:
        """What else a resume needs, such as running averages of a regulariser; {} for nothing."""

    def load_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `extra_state` gave."""
