"""Generate videos: python pipelines/sample.py [CONFIG.yaml ...] [key=value ...]

Latte + autoencoder -> one mp4 per video, a labelled grid (mp4 and GIF), samples.json. Each set of options has its own
folder below runs/<run>/sample/, so that no set of videos overwrites another; the same command completes a set.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from latte.latte import Latte
from latte.sampler import SamplerConfig, generate
from pipelines.cache_latents import autocast
from pipelines.data.video_file import to_uint8, write_gif, write_video
from pipelines.experiment import Experiment
from pipelines.pictures import label_rows, tile
from pipelines.run.checkpoint import hash_folder
from pipelines.run.folder import StageFolder, resolve_model, write_json
from pipelines.run.ranks import choose_device
from pipelines.run.stage import main, select
from pipelines.train_vae import run_path
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

STAGE = "sample"
FORMATS = ("mp4", "lossless")
# Options that change how the videos are made or stored, not which ones.
NOT_IN_NAME = ("batch_size", "save", "fps", "vae", "latte")
GRID_COLUMNS, GRID_ROWS = 8, 16


def run(config: Experiment) -> None:
    """Generate the videos of the `sample` section that are not there yet."""
    device = choose_device(config.run.device)
    unknown = [name for name in config.sample.save if name not in FORMATS]
    if unknown or not config.sample.save:
        raise ValueError(f"sample.save is {list(config.sample.save)}, expected one or both of {', '.join(FORMATS)}")
    latte_path, vae_path = model_paths(config)
    models = {"latte": latte_path, "vae": vae_path}
    inputs = {name: {"path": str(path), "hash": hash_folder(path)} for name, path in models.items()}
    folder = StageFolder(config.run.root, config.run.name, f"{STAGE}/{set_name(config)}")
    changeable = [f"sample.{name}" for name in NOT_IN_NAME]
    with folder.open(select(config, ("sample", "run")), inputs, changeable):
        model = Latte.from_pretrained(latte_path, use_safetensors=True, low_cpu_mem_usage=False).eval().to(device)
        plan = plan_samples(config, model)
        write_json(folder.path / "samples.json", plan)
        missing = [entry for entry in plan if not is_complete(folder.path, entry, config.sample.save)]
        if missing:
            vae = load_autoencoder(vae_path).to(device)
            videos = generate_videos(model, vae, missing, config, device)
            for entry, video in zip(missing, tqdm(videos, STAGE, len(missing), unit="video"), strict=True):
                write_sample(folder.path, entry, video, config)
        write_grid(folder.path, plan, config)
        folder.finish({"videos": len(plan)})
        print(f"{STAGE}: {len(plan)} videos in {folder.path}, all together in {folder.path / 'grid.gif'}")


def model_paths(config: Experiment) -> tuple[Path, Path]:
    """The folders of the Latte and of the autoencoder that decodes for it."""
    run_folder = run_path(config)
    latte = resolve_model(config.sample.latte, run_folder, "train_latte", config.sample.weights)
    return latte, resolve_model(config.sample.vae or config.cache.vae, run_folder, "train_vae")


def set_name(config: Experiment) -> str:
    """Folder name of a set of samples: the options people look for, and a digest of all of them and of the weights."""
    sample = config.sample
    options = {name: value for name, value in select(config, ("sample",))["sample"].items() if name not in NOT_IN_NAME}
    hashes = [hash_folder(path) for path in model_paths(config)]
    digest = hashlib.sha256(json.dumps([options, hashes], sort_keys=True).encode()).hexdigest()
    return f"guidance{sample.guidance_scale:g}-steps{sample.steps}-seed{sample.seed}-{digest[:8]}"


def sample_folder(config: Experiment) -> Path:
    """Where the samples of exactly this configuration stand; ValueError when they are not there or not complete."""
    path = run_path(config) / STAGE / set_name(config)
    if not (path / "done.json").exists():
        raise ValueError(f"there are no samples of this configuration ({path}): run python pipelines/sample.py with it")
    return path


def plan_samples(config: Experiment, model: Latte) -> list[dict[str, object]]:
    """What to generate: {"index", "class", "label", "seed", "name"} per video. ValueError for an unknown class."""
    names = model.architecture.classes
    if not names:
        if config.sample.classes:
            raise ValueError(
                f"sample.classes is {list(config.sample.classes)}, but this Latte was trained without classes: "
                "leave it empty"
            )
        labels = [-1]
    else:
        labels = [class_number(wanted, names) for wanted in config.sample.classes] or list(range(len(names)))
    plan: list[dict[str, object]] = []
    for label in labels:
        for _ in range(config.sample.per_class):
            index, name = len(plan), names[label] if label >= 0 else "video"
            plan.append(
                {"index": index, "class": name if label >= 0 else None, "label": label,
                 "seed": config.sample.seed + index, "name": f"{index:05d}-{name}"}
            )  # fmt: skip
    return plan


def class_number(wanted: str, names: Sequence[str]) -> int:
    """A class by name or number."""
    if wanted in names:
        return list(names).index(wanted)
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    known = ", ".join(names[:10]) + (f" ... ({len(names)} in all)" if len(names) > 10 else "")
    raise ValueError(f"sample.classes names {wanted!r}, but the classes are {known}, numbered from 0")


def sampler_settings(config: Experiment) -> SamplerConfig:
    """The options of the section `sample` that the sampler reads."""
    return SamplerConfig(**{field.name: getattr(config.sample, field.name) for field in fields(SamplerConfig)})


@torch.no_grad()
def generate_videos(
    model: Latte, vae: VideoAutoencoder, plan: Sequence[dict], config: Experiment, device: torch.device
) -> Iterator[Tensor]:
    """Yield a uint8 video (t, h, w, 3) per entry of `plan`; each depends on its label and seed only."""
    settings = sampler_settings(config)
    labels, seeds = [entry["label"] for entry in plan], [entry["seed"] for entry in plan]
    samples = generate(model, labels, seeds, settings, config.sample.batch_size, device)
    while True:
        with autocast(device, config.sample.precision):  # closed before the yield: it must not reach the caller
            sample = next(samples, None)
            if sample is None:
                return
            latents = {part: latent.unsqueeze(0).to(device) for part, latent in sample["latents"].items()}
            video = vae.decode(latents)[0]
        yield to_uint8(video.float().cpu())


def write_sample(folder: Path, entry: dict, video_uint8: Tensor, config: Experiment) -> None:
    """Write one video in every format of sample.save, each file whole or not at all."""
    for kind in config.sample.save:
        path = sample_file(folder, entry, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{path.name}")
        if kind == "mp4":
            write_video(part, video_uint8, config.sample.fps)
        else:
            save_file({"video": video_uint8.contiguous()}, part)
        os.replace(part, path)


def sample_file(folder: Path, entry: dict, kind: str) -> Path:
    """Where one video stands: `mp4` or `lossless` (uint8 (t, h, w, 3) in safetensors)."""
    suffix = ".mp4" if kind == "mp4" else ".safetensors"
    return folder / kind / f"{entry['name']}{suffix}"


def is_complete(folder: Path, entry: dict, kinds: Sequence[str]) -> bool:
    """Whether a video is there in all the formats asked for."""
    return all(sample_file(folder, entry, kind).exists() for kind in kinds)


def read_samples(folder: Path) -> tuple[list[dict], Tensor]:
    """samples.json and the videos (n, t, h, w, 3) uint8, exact; ValueError when they were saved as mp4 only."""
    plan = json.loads((folder / "samples.json").read_text())
    files = [sample_file(folder, entry, "lossless") for entry in plan]
    for file in files:
        if not file.exists():
            raise ValueError(
                f"{file} is missing: scores need lossless samples, run sample.py with sample.save=[mp4,lossless]"
            )
    return plan, torch.stack([load_file(file)["video"] for file in files])


def write_grid(folder: Path, plan: Sequence[dict], config: Experiment) -> None:
    """grid.mp4 and grid.gif: a row of videos per class, named."""
    from pipelines.data.video_file import read_video

    rows: dict[str, list[Tensor]] = {}
    for entry in plan:
        row = rows.get(entry["class"] or "", [])
        if len(row) < GRID_COLUMNS and (row or len(rows) < GRID_ROWS):
            if "lossless" in config.sample.save:
                row.append(load_file(sample_file(folder, entry, "lossless"))["video"])
            else:
                row.append(read_video(sample_file(folder, entry, "mp4")))
            rows[entry["class"] or ""] = row
    first = next(iter(rows.values()))[0]
    grid = label_rows(tile(list(rows.values())), list(rows), first.shape[1])
    write_video(folder / "grid.mp4", grid, config.sample.fps)
    write_gif(folder / "grid.gif", grid, config.sample.fps)


def describe(config: Experiment) -> str:
    """For run.dry_run: where the samples would go, where the models are there already."""
    try:
        return f"samples would go to {run_path(config) / STAGE / set_name(config)}"
    except ValueError as error:
        return f"not possible yet: {error}"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("sample", "run"), describe)
