"""Everything a resume needs: weights, averaged weights, optimisers, best score; and the folders made of it."""

import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from pipelines.run.checkpoint import load_latest, load_step, publish, save_checkpoint
from pipelines.run.data_parallel import PlayerLosses
from pipelines.run.ema import AveragedWeights
from pipelines.run.ema_snapshots import LENGTHS, PowerAverages, drop_snapshots, snapshot_interval
from pipelines.run.manifest import find_fault, write_manifest
from pipelines.run.muon import Muon
from pipelines.run.ranks import broadcast, connect, largest
from pipelines.run.sharding import load_whole, local, shard, split_like, whole_on_cpu
from pipelines.run.task import LoopConfig, TrainingTask


class TrainingState:
    """The players of a task on their device, with an optimiser each and averaged weights of one of them.

    shard_blocks: the kind of module by which the model with averages is split over the processes; None = it is not.
    With several processes all of them call every method that writes or reads files; the first one writes.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: LoopConfig,
        folder: Path,
        device: torch.device,
        shard_blocks: type[torch.nn.Module] | None = None,
    ) -> None:
        self.task, self.config, self.folder, self.device = task, config, folder, device
        self.is_main = connect().process_index == 0
        for player in task.players.values():
            player.to(device)
            player.train()
            broadcast(player.state_dict().values())
        self.model = task.players[task.ema_player]
        self.model_class = cast(Any, type(self.model))
        self.is_split = shard_blocks is not None and connect().num_processes > 1
        if self.is_split:
            shard(self.model, cast(type[torch.nn.Module], shard_blocks), device)
        self.losses = PlayerLosses(task)
        self.optimizers = {player: _build_optimizer(task, player, config) for player in task.players}
        self.ema = AveragedWeights(self.model.parameters(), config.ema_decay, config.ema_warmup)
        self.snapshot_every = snapshot_interval(config)
        self.power_averages = PowerAverages(self.ema.parameters) if self.snapshot_every else None
        self.best: float | None = None
        self.running: dict[str, tuple[float, int]] = {}

    def resume(self) -> int:
        """Load the newest intact checkpoint; returns the number of finished steps, 0 without one.

        The first process chooses the checkpoint, so that all go on from the same step.
        """
        checkpoints = self.folder / "checkpoints"
        found = load_latest(checkpoints) if self.is_main else None
        step = int(largest(found.step if found else 0))
        if self.power_averages and self.is_main:
            drop_snapshots(self.folder, step, self.snapshot_every if step < self.config.steps else 1)
        if step == 0:
            return 0
        found = found or load_step(checkpoints, step)
        for name, player in self.task.players.items():
            load_whole(player, found.tensors[name])
            _load_optimizer(self.optimizers[name], player, found.tensors.get(f"{name}.optimizer", {}))
        with torch.no_grad():
            for group, averages in self._averages().items():
                for (name, _), average in zip(self.model.named_parameters(), averages, strict=True):
                    local(average).copy_(local(split_like(found.tensors[group][name], average)))
        self.ema.num_updates = found.state["ema_step"]
        self.best, self.running = found.state["best"], found.state["running"]
        self.task.load_extra_state(found.tensors.get("extra", {}))
        return step

    def require_space(self) -> None:
        """Raise ValueError where the next checkpoint would not fit on the disk."""
        sizes = [sum(p.numel() for p in player.parameters()) for player in self.task.players.values()]
        needed, free = bytes_of_checkpoint(sum(sizes), self.config), shutil.disk_usage(self.folder).free
        if self.is_main and free < needed:
            raise ValueError(
                f"a checkpoint of {self.task.stage} takes {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free in "
                f"{self.folder}: make room there, or choose another run.root="
            )

    def set_learning_rate(self, lr: float) -> None:
        """Of all optimisers; each group of parameters has its own multiple of it."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]

    def clear_gradients(self) -> None:
        """Of all players: one's loss may leave gradients in another, and what is frozen in a phase must have none."""
        for player in self.task.players.values():
            player.zero_grad(set_to_none=True)

    def average(self, num_done: int, updated: bool) -> None:
        """Take the weights after `num_done` steps into the averages, and write a snapshot of them where one is due."""
        if updated:
            self.ema.update()
        if self.power_averages:
            self.power_averages.update(self.ema.parameters, num_done)
            is_due = num_done % self.snapshot_every == 0 or num_done == self.config.steps
            if is_due:
                names = [name for name, _ in self.model.named_parameters()]
                self.power_averages.save(self.folder, names, num_done)

    def save(self, step: int) -> None:
        """Publish the averaged weights as last/, then write the checkpoint; ValueError where a weight is not finite."""
        names = [name for name, _ in self.model.named_parameters()]
        tensors: dict[str, Mapping[str, torch.Tensor]] = {
            group: dict(zip(names, averages, strict=True)) for group, averages in self._averages().items()
        }
        for name, player in self.task.players.items():
            tensors[name] = player.state_dict()
            tensors[f"{name}.optimizer"] = _optimizer_tensors(self.optimizers[name], player)
        tensors["extra"] = self.task.extra_state()
        if self.is_main or self.is_split:
            filled = {group: named for group, named in tensors.items() if named}
            if self.is_split:
                filled = {group: whole_on_cpu(named, self.is_main) for group, named in filled.items()}
            _require_finite(filled, self.task.stage, step)
            self._publish("last")
        if self.is_main:
            state = {"ema_step": self.ema.num_updates, "best": self.best, "running": self.running}
            made_by = {"torch": torch.__version__, "processes": connect().num_processes}
            save_checkpoint(self.folder / "checkpoints", step, filled, state | made_by, self.config.keep_checkpoints)

    def publish_again(self) -> None:
        """Write last/ anew where it is missing or damaged."""
        fault = find_fault(self.folder / "last") if self.is_main else None
        if fault:
            print(f"{self.task.stage}: writing {self.folder / 'last'} again ({fault})", file=sys.stderr, flush=True)
        if largest(float(fault is not None)):
            self._publish("last")

    def publish_if_best(self, scores: Mapping[str, float]) -> None:
        """Publish the averaged weights as best/ when their score is better than every one before."""
        name, direction = self.task.best_metric
        score = float(scores.get(name, math.nan))
        is_better = not math.isnan(score) and (
            self.best is None or (score > self.best if direction == "max" else score < self.best)
        )
        if self.is_split:  # scores of several processes may differ by rounding: the first one decides
            is_better = bool(largest(float(is_better and self.is_main)))
        if is_better:
            self.best = score
            self._publish("best")

    @contextmanager
    def averaged_weights(self) -> Iterator[torch.nn.Module]:
        """Within: the model carries its averaged weights, in evaluation mode, without gradients."""
        weights = [local(parameter) for parameter in self.ema.parameters]
        with torch.no_grad():
            kept = [weight.detach().to("cpu", copy=True) for weight in weights]
            torch._foreach_copy_(weights, [local(average) for average in self.ema.averages])
            self.model.eval()
            try:
                yield self.model
            finally:
                torch._foreach_copy_(weights, kept)
                self.model.train()

    def _averages(self) -> dict[str, list[torch.Tensor]]:
        """Every running average of the weights, by the name of its file in the checkpoint."""
        powers = self.power_averages.averages if self.power_averages else []
        return {"ema": self.ema.averages} | {
            f"ema_{length:g}": own for length, own in zip(LENGTHS, powers, strict=False)
        }

    def _publish(self, name: str) -> None:
        with self.averaged_weights() as model:
            if self.is_split:
                state = whole_on_cpu(model.state_dict(), self.is_main)
                if not self.is_main:
                    return
                options = {k: v for k, v in cast(Any, model).config.items() if not k.startswith("_")}
                model = self.model_class(**options)
                model.load_state_dict(state)

            def write(target: Path) -> None:
                cast(Any, model).save_pretrained(target)
                write_manifest(target)

            if self.is_main:
                publish(self.folder / name, write)


def bytes_of_checkpoint(num_parameters: int, config: LoopConfig) -> int:
    """Room that a save takes before the oldest checkpoint goes: weights, averages, two moments; last/ made anew."""
    num_copies = 4 + (len(LENGTHS) if snapshot_interval(config) else 0) + 1
    return 4 * num_parameters * num_copies


def bytes_on_disk(num_parameters: int, config: LoopConfig) -> int:
    """Room that a training of a model takes at most: all checkpoints that are kept, one more, last/ and best/, and the
    snapshots of averaged weights (two in fp16 each)."""
    every = snapshot_interval(config)
    num_snapshots = config.steps // every if every else 0
    kept = (config.keep_checkpoints + 1) * bytes_of_checkpoint(num_parameters, config)
    return kept + 4 * num_parameters * (1 + num_snapshots)


def _require_finite(tensors: Mapping[str, Mapping[str, torch.Tensor]], stage: str, step: int) -> None:
    """ValueError for weights that must not replace good ones."""
    for group, named in tensors.items():
        for name, tensor in named.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{stage} is not saved at step {step}, because {name} of {group} is not finite: give a lower lr, "
                    "and start again from the last checkpoint"
                )


def _build_optimizer(task: TrainingTask, player: str, config: LoopConfig) -> torch.optim.Optimizer:
    groups = [{"lr_scale": 1.0, **group, "params": list(group["params"])} for group in task.parameter_groups(player)]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    owned = [id(parameter) for parameter in task.players[player].parameters()]
    assert sorted(grouped) == sorted(owned), f"parameter_groups({player!r}) must hold every parameter of it once"
    betas = cast(tuple[float, float], tuple(config.betas))
    if config.optimizer == "muon":
        return Muon(groups, config.lr, betas, config.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(groups, lr=config.lr, betas=betas, weight_decay=config.weight_decay, fused=True)


def _parameter_names(optimizer: torch.optim.Optimizer, player: torch.nn.Module) -> list[str]:
    """The names of the optimiser's parameters in its own order."""
    names = {id(parameter): name for name, parameter in player.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer, player: torch.nn.Module) -> dict[str, torch.Tensor]:
    """{"<parameter>|<moment>": tensor}; learning rates and the like follow from the configuration."""
    names = _parameter_names(optimizer, player)
    moments = optimizer.state_dict()["state"]
    return {
        f"{names[position]}|{moment}": tensor
        for position, tensors in moments.items()
        for moment, tensor in tensors.items()
    }


def _load_optimizer(
    optimizer: torch.optim.Optimizer, player: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    own = _parameter_names(optimizer, player)
    positions = {name: position for position, name in enumerate(own)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, moment = name.rpartition("|")
        place = positions[parameter]
        moments.setdefault(place, {})[moment] = split_like(tensor, parameters[place])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
