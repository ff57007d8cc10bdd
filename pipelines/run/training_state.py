"""Everything a resume needs: weights, averaged weights, optimisers, best score; and the folders made of it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.run.checkpoint import load_latest, publish, save_checkpoint
from pipelines.run.ema_snapshots import LENGTHS, PowerAverages, drop_snapshots
from pipelines.run.ranks import broadcast, connect

if TYPE_CHECKING:
    from pipelines.run.loop import LoopConfig, TrainingTask


class TrainingState:
    """The players of a task on their device, with an optimiser each and averaged weights of one of them."""

    def __init__(self, task: "TrainingTask", config: "LoopConfig", folder: Path, device: torch.device) -> None:
        from diffusers.training_utils import EMAModel  # imported here: 90 MB that only training needs

        self.task, self.config, self.folder = task, config, folder
        for player in task.players.values():
            player.to(device)
            player.train()
            broadcast(player.state_dict().values())
        self.optimizers = {player: _build_optimizer(task, player, config) for player in task.players}
        self.model = task.players[task.ema_player]
        self.ema_parameters = list(self.model.parameters())
        self.ema = EMAModel(self.ema_parameters, decay=config.ema_decay, foreach=True)
        self.power_averages = PowerAverages(self.ema_parameters) if config.ema_snapshot_every else None
        self.best: float | None = None
        self.running: dict[str, tuple[float, int]] = {}

    def resume(self) -> int:
        """Load the newest intact checkpoint; returns the number of finished steps, 0 without one."""
        found = load_latest(self.folder / "checkpoints")
        if self.power_averages and connect().process_index == 0:
            done = found.step if found else 0
            drop_snapshots(self.folder, done, self.config.ema_snapshot_every if done < self.config.steps else 1)
        if found is None:
            return 0
        for name, player in self.task.players.items():
            player.load_state_dict(found.tensors[name])
            _load_optimizer(self.optimizers[name], player, found.tensors.get(f"{name}.optimizer", {}))
        with torch.no_grad():
            for group, averages in self._averages().items():
                for (name, _), average in zip(self.model.named_parameters(), averages, strict=True):
                    average.copy_(found.tensors[group][name])
        self.ema.optimization_step = found.state["ema_step"]
        self.best, self.running = found.state["best"], found.state["running"]
        self.task.load_extra_state(found.tensors.get("extra", {}))
        return found.step

    def average(self, num_done: int, updated: bool) -> None:
        """Take the weights after `num_done` steps into the averages, and write a snapshot of them where one is due."""
        if updated:
            self._average_exponentially()
        if self.power_averages:
            self.power_averages.update(self.ema_parameters, num_done)
            is_due = num_done % self.config.ema_snapshot_every == 0 or num_done == self.config.steps
            if is_due and connect().process_index == 0:
                names = [name for name, _ in self.model.named_parameters()]
                self.power_averages.save(self.folder, names, num_done)

    @torch.no_grad()
    def _average_exponentially(self) -> None:
        """EMAModel.step in one pass over the weights, without its temporary copy of all of them."""
        self.ema.optimization_step += 1
        pairs = list(zip(self.ema.shadow_params, self.ema_parameters, strict=True))
        moving = [pair for pair in pairs if pair[1].requires_grad]
        for average, frozen in (pair for pair in pairs if not pair[1].requires_grad):
            average.copy_(frozen)
        averages, weights = ([pair[i] for pair in moving] for i in range(2))
        torch._foreach_lerp_(averages, weights, 1 - self.ema.get_decay(self.ema.optimization_step))

    def save(self, step: int) -> None:
        """Publish the averaged weights as last/, then write the checkpoint."""
        self._publish("last")
        names = [name for name, _ in self.model.named_parameters()]
        tensors: dict[str, dict[str, torch.Tensor]] = {
            group: dict(zip(names, averages, strict=True)) for group, averages in self._averages().items()
        }
        for name, player in self.task.players.items():
            tensors[name] = player.state_dict()
            tensors[f"{name}.optimizer"] = _optimizer_tensors(self.optimizers[name], player)
        tensors["extra"] = self.task.extra_state()
        state = {"ema_step": self.ema.optimization_step, "best": self.best, "running": self.running}
        filled = {group: named for group, named in tensors.items() if named}
        save_checkpoint(self.folder / "checkpoints", step, filled, state, self.config.keep_checkpoints)

    def publish_if_best(self, scores: Mapping[str, float]) -> None:
        """Publish the averaged weights as best/ when their score is better than every one before."""
        name, direction = self.task.best_metric
        score = float(scores.get(name, math.nan))
        if math.isnan(score):
            return
        if self.best is None or (score > self.best if direction == "max" else score < self.best):
            self.best = score
            self._publish("best")

    @contextmanager
    def averaged_weights(self) -> Iterator[torch.nn.Module]:
        """Within: the model carries its averaged weights, in evaluation mode, without gradients."""
        self.ema.store(self.ema_parameters)
        self.ema.copy_to(self.ema_parameters)
        self.model.eval()
        try:
            with torch.no_grad():
                yield self.model
        finally:
            self.ema.restore(self.ema_parameters)
            self.model.train()

    def _averages(self) -> dict[str, list[torch.Tensor]]:
        """Every running average of the weights, by the name of its file in the checkpoint."""
        powers = self.power_averages.averages if self.power_averages else []
        return {"ema": self.ema.shadow_params} | {
            f"ema_{length:g}": own for length, own in zip(LENGTHS, powers, strict=False)
        }

    def _publish(self, name: str) -> None:
        with self.averaged_weights() as model:
            publish(self.folder / name, cast(Any, model).save_pretrained)


def _build_optimizer(task: "TrainingTask", player: str, config: "LoopConfig") -> torch.optim.Optimizer:
    groups = [{"lr_scale": 1.0, **group, "params": list(group["params"])} for group in task.parameter_groups(player)]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    owned = [id(parameter) for parameter in task.players[player].parameters()]
    assert sorted(grouped) == sorted(owned), f"parameter_groups({player!r}) must hold every parameter of it once"
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    betas = cast(tuple[float, float], tuple(config.betas))
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
    positions = {name: position for position, name in enumerate(_parameter_names(optimizer, player))}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, moment = name.rpartition("|")
        moments.setdefault(positions[parameter], {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
