"""A tiny but real training task on synthetic vectors, for the tests of the run room; `python toy_task.py` trains it.

Two players in turn (a regressor and a scorer of its errors), draws, dropout-free nets, a phase change and extra state.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from pipelines.run.ema_snapshots import SnapshotLoopConfig
from pipelines.run.folder import StageFolder
from pipelines.run.loop import train
from pipelines.run.random_keys import Draws, key
from pipelines.run.ranks import connect
from pipelines.run.run_config import RunConfig
from pipelines.run.stage import main, select
from pipelines.run.task import may_change


class Regressor(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, architecture: dict[str, int]) -> None:
        super().__init__()
        width = architecture["width"]
        self.first, self.second = torch.nn.Linear(3, width), torch.nn.Linear(width, 1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(points)))


@dataclass(frozen=True)
class ToyConfig:
    width: int = 5  # width of the net
    bad_step: int = -1  # step whose first sample is infinite
    freeze_until: int = 0  # before this step the first layer is frozen
    split: bool = False  # split the regressor's weights over the processes
    loop: SnapshotLoopConfig = field(
        default_factory=lambda: SnapshotLoopConfig(steps=12, lr=0.01, log_every=1, checkpoint_every=3)
    )  # how long and how it is trained


@dataclass(frozen=True)
class ToyExperiment:
    toy: ToyConfig = field(default_factory=ToyConfig)
    run: RunConfig = field(default_factory=RunConfig)


class ToyTask:
    stage, ema_player, best_metric = "train_toy", "regressor", ("error", "min")

    def __init__(self, config: ToyConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        with torch.random.fork_rng():
            torch.manual_seed(key(seed, "initial weights"))
            self.players: dict[str, torch.nn.Module] = {
                "regressor": Regressor(architecture={"width": config.width}),
                "scorer": torch.nn.Linear(1, 1),
            }
        self.mean_error = torch.zeros(1)

    def prepare_step(self, step: int) -> list[str]:
        self.players["regressor"].first.requires_grad_(step >= self.config.freeze_until)
        return ["regressor", "scorer"] if step >= 2 else ["regressor"]

    def parameter_groups(self, player: str) -> list[dict[str, Any]]:
        if player == "scorer":
            return [{"params": self.players[player].parameters()}]
        model = self.players[player]
        return [{"params": model.first.parameters(), "lr_scale": 0.5}, {"params": model.second.parameters()}]

    def loss(
        self, player: str, batch: dict[str, Any], draws: Draws, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        noise = torch.stack([torch.randn(3, generator=generator) for generator in draws("noise")])
        error = self.players["regressor"](batch["points"] + 0.1 * noise) - batch["points"].sum(1, keepdim=True)
        squared = error.square().mean()
        if player == "scorer":
            self.mean_error.lerp_(squared.detach(), 0.1)
            return (self.players["scorer"](error.detach()) - error.detach()).square().mean() + 0 * self.mean_error, {}
        return squared, {"mean_error": error.mean()}

    def validate(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        points = torch.linspace(-1, 1, 12).reshape(4, 3)
        return {"error": float((model(points) - points.sum(1, keepdim=True)).square().mean())}

    def preview(self, model: torch.nn.Module, folder: Path, step: int) -> None:
        (folder / f"step-{step}.txt").write_text(str(model.training))

    def batches(self, first_step: int) -> Iterator[dict[str, Any]]:
        size, step, ranks = self.config.loop.global_batch_size, first_step, connect()
        while True:
            generator = torch.Generator().manual_seed(key(self.seed, "data", step))
            points = torch.randn(size, 3, generator=generator)
            if step == self.config.bad_step:
                points[0] = float("inf")
            names = [f"clip{i}.avi" for i in range(size)]
            share = slice(ranks.process_index, None, ranks.num_processes)  # every process its own samples
            yield {"points": points[share], "index": list(range(size))[share], "path": names[share]}
            step += 1

    def extra_state(self) -> dict[str, torch.Tensor]:
        return {"mean_error": self.mean_error}

    def load_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        self.mean_error = state["mean_error"]


def run_toy(config: ToyExperiment) -> None:
    folder = StageFolder(config.run.root, config.run.name, "train_toy")
    with folder.open(select(config, ("toy", "run")), may_change=(*may_change("toy.loop"), "toy.split")):
        task, blocks = ToyTask(config.toy, config.run.seed), torch.nn.Linear if config.toy.split else None
        train(task, config.toy.loop, folder, config.run.seed, config.run.device, blocks)
        folder.finish({"model": "best"})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("train_toy", run_toy, ToyExperiment, ("toy", "run"), arguments=sys.argv[1:])
