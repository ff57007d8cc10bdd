"""The only training loop. Both networks are trained here; what differs between them is a `TrainingTask`.

The same command resumes: weights, EMA and optimisers come from the newest checkpoint, everything random is keyed by the
step, so that an interrupted run equals an unbroken one, bit for bit on a CPU.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from pipelines.run.folder import StageFolder
from pipelines.run.interruption import Interruption
from pipelines.run.progress import Progress
from pipelines.run.random_keys import Draws, key
from pipelines.run.ranks import connect, largest, wait
from pipelines.run.training_state import TrainingState
from pipelines.run.update import update_player


@dataclass(frozen=True)
class LoopConfig:
    steps: int = 1000  # training steps in all; a finished run given more goes on
    global_batch_size: int = 8  # samples per step, over all processes
    micro_batch_size: int = 0  # samples at once in one process, against running out of memory; 0 = its whole share
    lr: float = 1e-4  # learning rate after the warm-up
    optimizer: str = "adamw"  # adam or adamw
    betas: tuple[float, ...] = (0.9, 0.999)  # decay of the optimiser's two moments
    weight_decay: float = 0.0  # weight decay per step, relative to the learning rate (adamw)
    warmup_steps: int = 0  # steps over which the learning rate rises linearly
    schedule: str = "constant"  # constant or cosine (to zero at the last step)
    clip_grad_norm: float = 1.0  # largest gradient norm per player; 0 = no clipping
    ema_decay: float = 0.999  # decay per step of the averaged weights; 0 = no averaging
    ema_warmup: bool = True  # a lower decay in the first steps, so that the first weights are soon forgotten
    ema_snapshot_every: int = 0  # steps between snapshots for sample.ema_length, each as large as the model; 0 = none
    precision: str = "fp32"  # fp32 or bf16 (autocast; weights stay fp32)
    log_every: int = 10  # steps between two lines of metrics.jsonl
    validate_every: int = 0  # steps between two validations; 0 = at the end only
    preview_every: int = 0  # steps between two sets of pictures; 0 = never
    checkpoint_every: int = 500  # steps between two checkpoints; 0 = at the end only
    keep_checkpoints: int = 2  # how many checkpoints stay on the disk
    num_workers: int = 0  # processes that read data ahead; 0 = none

    def __post_init__(self) -> None:
        choices = {"optimizer": ("adam", "adamw"), "schedule": ("constant", "cosine"), "precision": ("fp32", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {' or '.join(allowed)}")
        lowest = {"steps": 0, "global_batch_size": 1, "log_every": 1, "keep_checkpoints": 1, "ema_decay": 0, "lr": 0}
        intervals = ("validate_every", "preview_every", "checkpoint_every", "ema_snapshot_every")
        optional = (*intervals, "micro_batch_size", "warmup_steps", "num_workers", "clip_grad_norm")
        for name, least in (lowest | dict.fromkeys(optional, 0)).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {least} or more")
        if self.ema_decay >= 1 or len(self.betas) != 2:
            raise ValueError(f"ema_decay must be below 1 and betas two numbers, but are {self.ema_decay}, {self.betas}")


def may_change(prefix: str) -> tuple[str, ...]:
    """The options of a LoopConfig at `prefix` ("vae.loop") with which a run may go on changed: for StageFolder.open."""
    intervals = ("log_every", "validate_every", "preview_every", "checkpoint_every")
    names = ("steps", "micro_batch_size", *intervals, "keep_checkpoints", "num_workers")
    return tuple(f"{prefix}.{name}" for name in names)


class TrainingTask(Protocol):
    """What is trained: modules, data, losses and pictures. The loop does the rest."""

    stage: str  # name in random keys and messages
    players: dict[str, torch.nn.Module]  # optimised modules in update order, such as {"vae": ..., "discriminator": ...}
    ema_player: str  # the one whose averaged weights are validated and published; it has save_pretrained
    best_metric: tuple[str, str]  # name among validate's values, and "max" or "min"

    def prepare_step(self, step: int) -> list[str]:
        """Set requires_grad for the phase that `step` belongs to; return the players that this step updates."""

    def parameter_groups(self, player: str) -> list[dict]:
        """ALL parameters of a player as torch groups; an entry "lr_scale" multiplies the learning rate."""

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


def learning_rate(config: LoopConfig, step: int) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up, then constant or a half cosine down to zero."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "constant":
        return config.lr * warmup
    progress = max(0.0, (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1))
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def train(
    task: TrainingTask,
    config: LoopConfig,
    folder: StageFolder,
    seed: int,
    device: str = "auto",
    shard_blocks: type[torch.nn.Module] | None = None,
) -> None:
    """Train until `config.steps`, resuming from what stands in `folder`; returns at once when that many are done.

    Writes metrics.jsonl, tensorboard/, previews/, checkpoints/, and last/, best/ (averaged weights, save_pretrained).
    Raises ValueError for a loss or gradient that is not finite, before it reaches the weights, and for lack of memory.
    Exits with 130 / 143 / 138 on Ctrl-C / SIGTERM / SIGUSR1, after all processes have finished, and saved, one step.
    shard_blocks: see TrainingState.
    """
    ranks = connect(device)
    is_main = ranks.process_index == 0
    if config.global_batch_size % ranks.num_processes:
        raise ValueError(
            f"global_batch_size is {config.global_batch_size}, but must be a multiple of the number of processes, "
            f"{ranks.num_processes}"
        )
    state = TrainingState(task, config, folder.path, ranks.device, shard_blocks)
    first_step = state.resume()
    if first_step >= config.steps:
        if first_step:
            state.publish_again()
        if is_main:
            print(f"{task.stage}: all {config.steps} steps are done already, nothing to train", file=sys.stderr)
        return
    state.require_space()
    folder.reopen()
    folder.cut_log(first_step)
    if is_main and first_step:
        print(f"{task.stage}: going on from step {first_step} of {config.steps}", file=sys.stderr, flush=True)

    batches = task.batches(first_step)
    with (
        torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []),
        Interruption() as interruption,
        Progress(folder, task.stage, first_step, config.steps, is_main) as progress,
    ):
        progress.restore_sums(state.running)
        for step in range(first_step, config.steps):
            # Dropout and the like use torch's global generator: it starts anew from the step.
            torch.manual_seed(key(seed, task.stage, "global generator", step, ranks.process_index))

            # Update the players in turn.
            batch = next(batches)
            draws = Draws(seed, task.stage, step, batch["index"])
            lr = learning_rate(config, step)
            updated = task.prepare_step(step)
            for player in updated:
                progress.add(update_player(task, player, state.optimizers[player], batch, draws, step, lr, config))

            # Average the weights.
            num_done = step + 1
            state.average(num_done, task.ema_player in updated)

            # Report. A GPU still computes this step: what is read is the one before, unless all is wanted.
            is_last = num_done == config.steps
            is_looked_at = any(_is_due(num_done, every) for every in (config.validate_every, config.preview_every))
            progress.read(but_last=0 if is_looked_at else len(updated))
            if num_done % config.log_every == 0 or is_last:
                progress.report(num_done, lr)
            progress.advance()

            # Validate and draw pictures, on the averaged weights.
            if is_last or _is_due(num_done, config.validate_every):
                if is_main or state.is_split:
                    with state.averaged_weights() as model:
                        scores = task.validate(model, num_done)
                    progress.report_validation(num_done, scores)
                    state.publish_if_best(scores)
                wait()
            if _is_due(num_done, config.preview_every):
                if is_main or state.is_split:
                    (folder.path / "previews").mkdir(exist_ok=True)
                    with state.averaged_weights() as model:
                        task.preview(model, folder.path / "previews", num_done)
                wait()

            # Save.
            signal_number = int(largest(interruption.signal_number))
            if is_last or signal_number or _is_due(num_done, config.checkpoint_every):
                state.running = progress.sums()
                state.save(num_done)
                wait()

            # Stop when asked to.
            if signal_number and not is_last:
                if is_main:
                    progress.say(f"saved step {num_done} of {config.steps}; to go on: {interruption.command}")
                raise SystemExit(128 + signal_number)


def _is_due(num_done: int, every: int) -> bool:
    return every > 0 and num_done % every == 0
