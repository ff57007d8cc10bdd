"""Generate videos: python pipelines/sample.py [CONFIG.yaml ...] [key=value ...]

Latte + autoencoder -> one mp4 per video, a labelled grid (mp4 and GIF), samples.json. Each set of options has its own
folder below runs/<run>/sample/, so that no set of videos overwrites another; the same command completes a set, and
`torchrun` shares it among processes: a video depends on its class and seed, and on nothing else.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from latte.diffusion import Parts
from latte.latte import Latte
from latte.sampler import Callback, generate, interpolate_noise
from pipelines.data.video_file import to_float, to_uint8
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.first_frame import encode_first_frame, frame_size, read_first_frame
from pipelines.inputs.models import load_latte
from pipelines.inputs.precision import autocast
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.samples import NOT_IN_NAME, sample_inputs, sampler_settings, set_name
from pipelines.parts.sample.files import is_complete, write_grid, write_sample
from pipelines.parts.sample.plan import plan_samples
from pipelines.parts.sample.previews import preview_writer
from pipelines.run.folder import StageFolder, write_json
from pipelines.run.live_line import told
from pipelines.run.ranks import connect, wait
from pipelines.run.stage import main, select
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

STAGE = "sample"


def run(config: Experiment) -> None:
    """Generate the videos of the `sample` section that are not there yet."""
    ranks = connect(config.run.device)
    inputs = sample_inputs(config)
    folder = StageFolder(config.run.root, config.run.name, f"{STAGE}/{set_name(config)}")
    changeable = [f"sample.{name}" for name in NOT_IN_NAME]
    with folder.open(select(config, ("sample", "run")), inputs, changeable):
        wait()  # the first process has found nothing against it
        model = load_latte(Path(inputs["latte"]["path"]), ranks.device, config.sample.ema_length)
        plan = plan_samples(config, model)
        if folder.is_main and not model.num_classes and config.sample.guidance_scale != 1 and not config.sample.guide:
            print(f"{STAGE}: the model has no classes, so sample.guidance_scale has no effect", file=sys.stderr)
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
            shown = told(videos, STAGE, "video", len(missing), is_silent=not folder.is_main)
            for entry, video in zip(missing, shown, strict=True):
                write_sample(folder.path, entry, video, config)
        wait()
        if folder.is_main:
            write_grid(folder.path, plan, config)
            folder.finish({"videos": len(plan)})
            print(f"{STAGE}: {len(plan)} videos in {folder.path}, all together in {folder.path / 'grid.gif'}")


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
    settings = sampler_settings(config, bool(model.num_classes))
    size, seeds = config.sample.batch_size, config.sample.interpolate
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
