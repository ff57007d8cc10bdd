"""Sets of samples: the folder that a configuration names, and the files in it."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from latte.sampler import SamplerConfig
from pipelines.data.video_file import read_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.first_frame import hash_first_frames
from pipelines.inputs.models import model_paths, resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.run.config import to_dict
from pipelines.run.hashes import hash_folder

# Options that change how the videos are made or stored, not which ones; what the paths name enters by its content.
NOT_IN_NAME = ("batch_size", "save", "fps", "preview_every", "vae", "latte", "guide", "first_frame")
NEWER = ("internal_scale", "internal_low")  # not in the name where they do nothing: older sets keep theirs


def sample_inputs(config: Experiment) -> dict[str, dict[str, str]]:
    """What the videos are made from, {name: {"path", "hash"}}: latte, vae and, where they are named, guide and first
    frame."""
    latte, vae = model_paths(config)
    models = {"latte": latte, "vae": vae}
    if config.sample.guide:
        weights = config.sample.weights
        models["guide"] = resolve_model(config.sample.guide, run_path(config), "train_latte", weights)
    inputs = {name: {"path": str(path), "hash": hash_folder(path)} for name, path in models.items()}
    if first_frame := config.sample.first_frame:
        inputs["first frame"] = {"path": first_frame, "hash": hash_first_frames(first_frame)}
    return inputs


def set_name(config: Experiment) -> str:
    """Folder name of a set of samples: the options people look for, and a digest of all of them and of the inputs."""
    sample = config.sample
    unset = {field.name: field.default for field in fields(sample) if field.name in NEWER}
    options = {name: value for name, value in to_dict(sample).items() if name not in NOT_IN_NAME}
    options = {name: value for name, value in options.items() if name not in unset or value != unset[name]}
    hashes = [entry["hash"] for entry in sample_inputs(config).values()]
    digest = hashlib.sha256(json.dumps([options, hashes], sort_keys=True).encode()).hexdigest()
    guidance = guidance_scale(config, has_classes(model_paths(config)[0]))
    kind = "first_frame-" * bool(sample.first_frame) + "interpolation-" * bool(sample.interpolate)
    return f"{kind}guidance{guidance:g}-steps{sample.steps}-seed{sample.seed}-{digest[:8]}"


def sample_folder(config: Experiment) -> Path:
    """Where the samples of exactly this configuration stand; ValueError when they are not there or not complete."""
    path = run_path(config) / "sample" / set_name(config)
    if not (path / "done.json").exists():
        raise ValueError(f"there are no samples of this configuration ({path}): run python pipelines/sample.py with it")
    return path


def sampler_settings(config: Experiment, has_classes: bool) -> SamplerConfig:
    """The options of the section `sample` that the sampler reads; without classes there is nothing to guide to."""
    options = {field.name: getattr(config.sample, field.name) for field in fields(SamplerConfig)}
    return SamplerConfig(**options | {"guidance_scale": guidance_scale(config, has_classes)})


def guidance_scale(config: Experiment, has_classes: bool) -> float:
    """sample.guidance_scale, and 1, which is none, for a model without classes that no other one guides."""
    return config.sample.guidance_scale if has_classes or config.sample.guide else 1.0


def has_classes(latte: Path) -> bool:
    """Whether a saved transformer was trained with classes."""
    saved = json.loads((latte / "config.json").read_text(encoding="utf-8"))
    return bool(saved.get("architecture", {}).get("classes"))


def sample_file(folder: Path, entry: dict, kind: str) -> Path:
    """Where one video stands: `mp4` or `lossless` (uint8 (t, h, w, 3) in safetensors)."""
    suffix = ".mp4" if kind == "mp4" else ".safetensors"
    return folder / kind / f"{entry['name']}{suffix}"


def read_samples(folder: Path) -> tuple[list[dict], Tensor]:
    """samples.json and the videos (n, t, h, w, 3) uint8, exact, or as the mp4 shows them where that alone was saved."""
    plan = json.loads((folder / "samples.json").read_text())
    return plan, torch.stack([read_sample(folder, entry) for entry in plan])


def read_sample(folder: Path, entry: dict) -> Tensor:
    """One video (t, h, w, 3) uint8 in the best format that is there."""
    lossless = sample_file(folder, entry, "lossless")
    return load_file(lossless)["video"] if lossless.exists() else read_video(sample_file(folder, entry, "mp4"))
