"""Generate videos: python pipelines/sample.py [CONFIG.yaml ...] [key=value ...]

Latte + autoencoder -> one mp4 per video, a labelled grid (mp4 and GIF), samples.json. Each set of options has its own
folder below runs/<run>/sample/, so that no set of videos overwrites another; the same command completes a set, and
`torchrun` shares it among processes: a video depends on its class and seed, and on nothing else.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from latte.diffusion import Parts
from latte.latte import Latte
from latte.sampler import Callback, SamplerConfig, generate, interpolate_noise
from pipelines.cache_latents import autocast
from pipelines.data.video_file import to_float, to_uint8
from pipelines.experiment import Experiment
from pipelines.run.checkpoint import hash_folder
from pipelines.run.config import to_dict
from pipelines.run.ema_snapshots import averaged_weights
from pipelines.run.folder import StageFolder, resolve_model, write_json
from pipelines.run.ranks import connect, wait
from pipelines.run.stage import main, select
from pipelines.sampling.first_frame import encode_first_frame, frame_size, hash_first_frames, read_first_frame
from pipelines.sampling.plan import plan_samples
from pipelines.sampling.previews import preview_writer
from pipelines.sampling.sample_files import FORMATS, is_complete, write_grid, write_sample
from pipelines.train_vae import run_path
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

STAGE = "sample"
# Options that change how the videos are made or stored, not which ones; what the paths name enters by its content.
NOT_IN_NAME = ("batch_size", "save", "fps", "preview_every", "vae", "latte", "guide", "first_frame")


def run(config: Experiment) -> None:
    """Generate the videos of the `sample` section that are not there yet."""
    ranks = connect(config.run.device)
    unknown = [name for name in config.sample.save if name not in FORMATS]
    if unknown or not config.sample.save:
        raise ValueError(f"sample.save is {list(config.sample.save)}, expected one or both of {', '.join(FORMATS)}")
    inputs = sample_inputs(config)
    folder = StageFolder(config.run.root, config.run.name, f"{STAGE}/{set_name(config)}")
    changeable = [f"sample.{name}" for name in NOT_IN_NAME]
    with folder.open(select(config, ("sample", "run")), inputs, changeable):
        wait()  # the first process has found nothing against it
        model = load_latte(Path(inputs["latte"]["path"]), ranks.device, config.sample.ema_length)
        plan = plan_samples(config, model)
        if folder.is_main:
            write_json(folder.path / "samples.json", plan)
        own = plan[ranks.process_index :: ranks.num_processes]  # of the whole plan: others write while this is read
        missing = [entry for entry in own if not is_complete(folder.path, entry, config.sample.save)]
        if missing:
            vae = load_autoencoder(Path(inputs["vae"]["path"])).to(ranks.device)
            weak = load_latte(Path(inputs["guide"]["path"]), ranks.device) if config.sample.guide else None
            every, preview = config.sample.preview_every, None
            if every and folder.is_main:
                preview = preview_writer(folder.path / "previews", model, every, config.sample.fps)
            videos = generate_videos(model, vae, missing, config, ranks.device, weak, preview)
            shown = tqdm(videos, STAGE, len(missing), unit="video", disable=not folder.is_main)
            for entry, video in zip(missing, shown, strict=True):
                write_sample(folder.path, entry, video, config)
        wait()
        if folder.is_main:
            write_grid(folder.path, plan, config)
            folder.finish({"videos": len(plan)})
            print(f"{STAGE}: {len(plan)} videos in {folder.path}, all together in {folder.path / 'grid.gif'}")


def model_paths(config: Experiment) -> tuple[Path, Path]:
    """The folders of the Latte and of the autoencoder that decodes for it."""
    run_folder = run_path(config)
    latte = resolve_model(config.sample.latte, run_folder, "train_latte", config.sample.weights)
    return latte, resolve_model(config.sample.vae or config.cache.vae, run_folder, "train_vae")


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


def load_latte(path: Path, device: torch.device, ema_length: float = 0.0) -> Latte:
    """The Latte of a `save_pretrained` folder, in eval mode.

    ema_length: its weights averaged over this share of the training instead, from the snapshots beside the folder;
    0 = as they are there. Raises ValueError where there are none.
    """
    model = Latte.from_pretrained(path, use_safetensors=True, low_cpu_mem_usage=False).eval()
    if ema_length:
        model.load_state_dict(averaged_weights(path.parent, ema_length))
    return model.to(device)


def set_name(config: Experiment) -> str:
    """Folder name of a set of samples: the options people look for, and a digest of all of them and of the inputs."""
    sample = config.sample
    options = {name: value for name, value in to_dict(sample).items() if name not in NOT_IN_NAME}
    hashes = [entry["hash"] for entry in sample_inputs(config).values()]
    digest = hashlib.sha256(json.dumps([options, hashes], sort_keys=True).encode()).hexdigest()
    kind = "first_frame-" * bool(sample.first_frame) + "interpolation-" * bool(sample.interpolate)
    return f"{kind}guidance{sample.guidance_scale:g}-steps{sample.steps}-seed{sample.seed}-{digest[:8]}"


def sample_folder(config: Experiment) -> Path:
    """Where the samples of exactly this configuration stand; ValueError when they are not there or not complete."""
    path = run_path(config) / STAGE / set_name(config)
    if not (path / "done.json").exists():
        raise ValueError(f"there are no samples of this configuration ({path}): run python pipelines/sample.py with it")
    return path


def sampler_settings(config: Experiment) -> SamplerConfig:
    """The options of the section `sample` that the sampler reads."""
    return SamplerConfig(**{field.name: getattr(config.sample, field.name) for field in fields(SamplerConfig)})


@torch.no_grad()
def generate_videos(
    model: Latte,
    vae: VideoAutoencoder,
    plan: Sequence[dict],
    config: Experiment,
    device: torch.device,
    weak_model: Latte | None = None,
    callback: Callback | None = None,
) -> Iterator[Tensor]:
    """Yield a uint8 video (t, h, w, 3) per entry of `plan` (see `plan_samples`), batch after batch.

    Each depends on its own entry only: {"label": class or -1, "seed"}, and where they are given "first_frame" (a file)
    and "place" (on the arc between the two seeds of sample.interpolate). weak_model: see sample.guide. callback(step,
    num_steps, clean): at every step of a batch, with estimates of its latents.
    """
    settings, size, seeds = sampler_settings(config), config.sample.batch_size, config.sample.interpolate
    arc = interpolate_noise(model, seeds[0], seeds[1], config.sample.per_class) if seeds else {}
    for start in range(0, len(plan), size):
        batch = plan[start : start + size]
        with autocast(device, config.sample.precision):  # closed before the yield: it must not reach the caller
            samples = list(
                generate(
                    model,
                    [entry["label"] for entry in batch],
                    [entry["seed"] for entry in batch],
                    settings,
                    size,
                    device,
                    weak_model,
                    first_frame=first_frames(vae, model, batch),
                    noise={part: noise[[entry["place"] for entry in batch]] for part, noise in arc.items()} or None,
                    callback=callback,
                )
            )
        for sample in samples:
            latents = {part: latent.unsqueeze(0).to(device) for part, latent in sample["latents"].items()}
            with autocast(device, config.sample.precision):
                video = vae.decode(latents)[0]
            yield to_uint8(video.float().cpu())


def first_frames(vae: VideoAutoencoder, model: Latte, batch: Sequence[dict]) -> Parts | None:
    """Latents {"keyframe": (b, c, 1, h, w)} of the frames that a batch begins with; None where it has none."""
    if "first_frame" not in batch[0]:
        return None
    resolution = min(frame_size(vae, model.layout))
    read = {file: read_first_frame(Path(file), resolution) for file in {entry["first_frame"] for entry in batch}}
    frames = {file: rearrange(to_float(frame.unsqueeze(0)), "c 1 h w -> 1 c h w") for file, frame in read.items()}
    coded = {file: encode_first_frame(vae, frame.to(vae.device)) for file, frame in frames.items()}
    parts = [coded[entry["first_frame"]] for entry in batch]
    return {part: torch.cat([latents[part] for latents in parts]) for part in parts[0]}


def describe(config: Experiment) -> str:
    """For run.dry_run: where the samples would go, where the models are there already."""
    try:
        return f"samples would go to {run_path(config) / STAGE / set_name(config)}"
    except ValueError as error:
        return f"not possible yet: {error}"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("sample", "run"), describe)
