"""How many parameters the models of a run have, from their config.json alone: no weights are read."""

import json
from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch

from latte.latte import Latte
from vae.registry import MODELS

LABELS = {"vae": "autoencoder", "latte": "Latte"}
STAGE_OF = {"vae": "train_vae", "latte": "train_latte"}


def count_parameters(run: Path, models: Mapping[str, str]) -> dict[str, int]:
    """{"autoencoder": count, "Latte": count} of the models that are still there.

    models: {"vae" | "latte": folder, as the stage that used it wrote it down}; else those of the run itself.
    """
    counts = {}
    for name, label in LABELS.items():
        own = run / STAGE_OF[name]
        candidates = [*([Path(models[name])] if name in models else []), own / "best", own / "last"]
        folder = next((path for path in candidates if (path / "config.json").is_file()), None)
        if folder is not None:
            counts[label] = parameters_of(folder)
    return counts


def parameters_of(folder: Path) -> int:
    """Parameters of the model in a `save_pretrained` folder, motion module included."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config["_class_name"]
    known = {model.__name__: model for model in (*MODELS.values(), Latte)}
    with torch.device("meta"):
        model = (known.get(name) or getattr(diffusers, name)).from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
