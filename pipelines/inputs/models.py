"""Models that a stage opens, by a reference such as `cache.vae`: found, checked, loaded."""

from dataclasses import asdict
from pathlib import Path

import torch

from latte.config import build_records
from latte.latte import Latte
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.run_paths import run_path
from pipelines.run.ema_snapshots import averaged_weights
from pipelines.run.hashes import hash_file, hash_folder
from pipelines.run.manifest import require_intact
from vae.interface import VideoAutoencoder
from vae.motion_module import MotionModule
from vae.registry import build_autoencoder
from vae.ssf2020 import load_ssf2020


def resolve_model(reference: str, run_path: Path, stage: str, which: str = "best") -> Path:
    """The `save_pretrained` folder behind a reference such as `cache.vae`; raises ValueError when there is none.

    reference: "" (this run), another run's folder, a `save_pretrained` folder, or an exported pipeline folder.
    which: "best" or "last"; a stage that never scored itself has only "last", which then stands for both.
    """
    base = Path(reference) if reference else Path(run_path)
    names = (which, "last") if which == "best" else (which,)
    part = {"train_latte": "transformer"}.get(stage, stage.removeprefix("train_"))  # as diffusers names it in an export
    candidates = [base, base / part, base / "package" / part] if reference else []
    candidates += [folder / name for folder in (base / stage, base) for name in names]
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            instead = "last/ stands for it" if candidate.name == "best" else "its command writes it again"
            require_intact(candidate, f"remove that folder, then {instead}")
            return candidate
    remedy = f"name a run or save_pretrained folder that exists, or run pipelines/{stage}.py first"
    raise ValueError(f"there is no model of {stage} in {base}: {remedy}")


CHECKPOINT_SUFFIXES = (".tar", ".pth", ".pt")


def load_motion_module(reference: str, run_folder: Path, architecture: dict) -> tuple[MotionModule, dict[str, str]]:
    """The motion module behind a reference such as `vae.motion_from`, and what it is for the provenance.

    reference: as for `resolve_model`, or a CompressAI ssf2020 checkpoint file, which then fills `architecture`.
    """
    file = Path(reference)
    if reference and (file.is_file() or file.suffix in CHECKPOINT_SUFFIXES):
        return load_ssf2020(file, architecture), {"path": str(file), "hash": hash_file(file)}
    path = resolve_model(reference, run_folder, "train_motion")
    module = MotionModule.from_pretrained(path, use_safetensors=True, low_cpu_mem_usage=False)
    return module, {"path": str(path), "hash": hash_folder(path)}


def take_weights(
    model: VideoAutoencoder | MotionModule, source: VideoAutoencoder | MotionModule, path: Path | str
) -> None:
    """Copy all weights of `source` into `model`; ValueError when they are not the same network.

    For autoencoders and motion modules; what a Latte takes of another: latte/fine_tuning.py.
    """
    theirs, own = (asdict(network.architecture) for network in (source, model))  # options that came later: defaults
    if theirs != own:
        raise ValueError(
            f"the model in {path} has another architecture ({theirs}) than the one configured ({own}): set the same "
            "sizes, or name another model"
        )
    model.load_state_dict(source.state_dict())


def autoencoder_path(config: Experiment) -> Path:
    """The folder of the autoencoder whose latents this run is about: cache.vae, or its own."""
    return resolve_model(config.cache.vae, run_path(config), "train_vae")


def model_paths(config: Experiment) -> tuple[Path, Path]:
    """The folders of the Latte and of the autoencoder that decodes for it."""
    run_folder = run_path(config)
    latte = resolve_model(config.sample.latte, run_folder, "train_latte", config.sample.weights)
    return latte, resolve_model(config.sample.vae or config.cache.vae, run_folder, "train_vae")


def load_latte(path: Path, device: torch.device, ema_length: float = 0.0) -> Latte:
    """The Latte of a `save_pretrained` folder, in eval mode.

    ema_length: its weights averaged over this share of the training instead, from the snapshots beside the folder;
    0 = as they are there. Raises ValueError where there are none.
    """
    model = Latte.from_pretrained(path, use_safetensors=True, low_cpu_mem_usage=False).eval()
    if ema_length:
        model.load_state_dict(averaged_weights(path.parent, ema_length))
    return model.to(device)


def planned_latte(config: Experiment) -> Latte:
    """The model that would be trained, without values; the latents' shapes come from the configured autoencoder."""
    with torch.device("meta"):
        vae = build_autoencoder(config.vae)
        clip = (config.data.num_frames, config.data.resolution, config.data.resolution)
        parts = {
            part: {"shape": list(shape), "mean": [0.0] * shape[0], "std": [1.0] * shape[0]}
            for part, shape in vae.latent_shapes(clip).items()
        }
        return Latte(**build_records(config.latte, parts, []))
