"""A Latte small enough for tests, its latents, and golden numbers."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from latte.config import LatteConfig, build_records
from latte.latte import Latte

DECOUPLED = {"keyframe": (6, 1, 4, 4), "motion": (2, 4, 4, 4), "residual": (4, 4, 4, 4)}
PLAIN = {"video": (5, 3, 4, 4)}
CLASSES = ("left", "right", "up")
GOLDEN = Path(__file__).parents[1] / "golden"


def tiny_records(shapes: dict = DECOUPLED, classes: tuple = CLASSES, **options) -> dict:
    """What a tiny Latte is built of: `options` over a width of 16 and a depth of 2; every part has mean 0.5, std 2."""
    config = LatteConfig(**{"size": "custom", "depth": 2, "width": 16, "heads": 2, "patch": 2, **options})
    parts = {
        part: {"shape": shape, "mean": [0.5] * shape[0], "std": [2.0] * shape[0]} for part, shape in shapes.items()
    }
    return build_records(config, parts, classes)


def tiny_latte(shapes: dict = DECOUPLED, classes: tuple = CLASSES, awake: bool = False, **options) -> Latte:
    """A seeded model; `awake`: no parameter is left at zero, so that every one of them matters."""
    torch.manual_seed(0)
    model = Latte(**tiny_records(shapes, classes, **options))
    if awake:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def random_latents(shapes: dict, batch: int, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {part: torch.randn(batch, *shape, generator=generator) for part, shape in shapes.items()}


def keyed_draws(seeds: list[int]):
    """Generators as the training loop gives them: one per sample and name, restarted at every call."""

    def draws(name: str) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed * 1000 + sum(name.encode())) for seed in seeds]

    return draws


def check_golden(file: str, name: str, values: Tensor) -> None:
    """Compare with entry `name` of tests/golden/<file>.json; UPDATE_GOLDEN=1 rewrites it."""
    path = GOLDEN / f"{file}.json"
    numbers = json.loads(path.read_text()) if path.exists() else {}
    if os.environ.get("UPDATE_GOLDEN") == "1":
        numbers[name] = [float(f"{value:.6g}") for value in values.flatten()]
        lines = [f"  {json.dumps(key)}: {json.dumps(numbers[key])}" for key in sorted(numbers)]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    torch.testing.assert_close(values.flatten(), torch.tensor(numbers[name]), rtol=1e-3, atol=1e-5)
