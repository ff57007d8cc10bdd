"""Write a diffusers pipeline: python pipelines/export.py [CONFIG.yaml ...] [key=value ...]

Latte + autoencoder -> export.folder/package (needs this project) and export.folder/self_contained (brings its code, for
anybody with diffusers), each with a model card. In Python: `pipelines.inputs.deco_latte.DecoLattePipeline`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from latte.latte import Latte
from latte.sampler import SamplerConfig
from pipelines.inputs.deco_latte import DecoLattePipeline, name_sources
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.pipeline_schedulers import build_scheduler
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.samples import sampler_settings
from pipelines.parts.export.bundle import bundle, file_name, requirements
from pipelines.parts.export.model_card import write_card
from pipelines.run.checkpoint import publish
from pipelines.run.folder import StageFolder
from pipelines.run.hashes import hash_folder
from pipelines.run.stage import alone, main, select
from vae.registry import load_autoencoder

STAGE = "export"
LAYOUTS = ("package", "self_contained")


@alone
def run(config: Experiment) -> None:
    """Write both layouts; folders of an earlier export are replaced."""
    latte_path, vae_path = model_paths(config)
    models = {"latte": latte_path, "vae": vae_path}
    target = Path(config.export.folder) if config.export.folder else run_path(config) / STAGE
    for layout in LAYOUTS:
        check_may_replace(target / layout)
    inputs = {name: {"path": str(path), "hash": hash_folder(path)} for name, path in models.items()}
    stage = StageFolder(config.run.root, config.run.name, STAGE)
    with stage.open(select(config, ("sample", "export", "run")), may_change=("*",)):
        model = load_latte(latte_path, torch.device("cpu"), config.sample.ema_length)
        settings = sampler_settings(config, bool(model.num_classes))
        pipeline = build_pipeline(model, vae_path, settings)
        changed = sampled_otherwise(config, settings.method_for(model))
        for difference in changed:
            print(f"{STAGE}: {difference}", file=sys.stderr)
        for layout in LAYOUTS:
            publish(
                target / layout,
                lambda folder, layout=layout: write_layout(pipeline, folder, layout, config, inputs, changed),
            )
            print(f"{STAGE}: {target / layout}")
        stage.finish({"folder": str(target)})


def check_may_replace(folder: Path) -> None:
    """ValueError where `folder` holds something else than an export."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} holds other files and would be replaced: choose another export.folder")


def build_pipeline(model: Latte, vae_path: Path, settings: SamplerConfig) -> DecoLattePipeline:
    """The pipeline of a model and an autoencoder's folder, which samples with `settings` where a call says nothing."""
    method = settings.method_for(model)
    sampling = {
        "steps": settings.steps * (2 if method == "heun" else 1),
        "guidance_scale": settings.guidance_scale,
        "guidance_low": settings.guidance_low,
        "guidance_high": settings.guidance_high,
    }
    scheduler = build_scheduler(model, method, settings.time_shift)
    return DecoLattePipeline(model, load_autoencoder(vae_path), scheduler, sampling=sampling)


def sampled_otherwise(config: Experiment, method: str) -> list[str]:
    """In what the pipeline samples otherwise than `sample.py` does with these options, in sentences."""
    options = config.sample
    notes = []
    if method == "heun":
        notes.append(
            f"Euler with {2 * options.steps} steps takes the place of Heun with {options.steps}: as much work."
        )
    if method == "ddim":
        notes.append("DDIM of diffusers steps by equal strides from the last timestep, ours from end to end.")
    for name in ("cfg_channels", "keyframe_lead", "guide"):
        if getattr(options, name):
            notes.append(f"sample.{name} is left out: the pipeline has nothing of the kind.")
    if options.internal_scale != 1:
        notes.append("sample.internal_scale is left out: the pipeline has no internal guidance.")
    return notes


def write_layout(
    pipeline: DecoLattePipeline,
    folder: Path,
    layout: str,
    config: Experiment,
    inputs: dict[str, dict[str, str]],
    changed: Sequence[str],
) -> None:
    """Fill an empty folder with one of LAYOUTS. changed: of `sampled_otherwise`."""
    pipeline.save_pretrained(folder)
    packages: list[str] = []
    if layout == "self_contained":
        texts = code_files(pipeline)
        packages = requirements([text for _, text in texts.values()])
        files = {}
        for name, (stem, text) in texts.items():
            files[name] = folder / name / file_name(stem, text)
            files[name].write_text(text, encoding="utf-8")
        name_sources(folder, files)
    write_card(folder / "README.md", pipeline, packages, config, inputs, changed)


def code_files(pipeline: DecoLattePipeline) -> dict[str, tuple[str, str]]:
    """{"" for the pipeline, or the name of a component: (first part of the file's name, its text)}."""
    sources = {
        "": (DecoLattePipeline, "pipeline_deco_latte", "Latte and its autoencoder as one pipeline of diffusers."),
        "transformer": (Latte, "modeling_latte", "Latte: labels -> latents."),
        "vae": (type(pipeline.vae), "modeling_deco_vae", "The video autoencoder: pixels <-> latents."),
    }
    return {
        name: (stem, bundle(source.__module__, source.__name__, title))
        for name, (source, stem, title) in sources.items()
    }


def describe(config: Experiment) -> str:
    """For run.dry_run: what would be exported, where it is there already."""
    try:
        latte_path, vae_path = model_paths(config)
    except ValueError as error:
        return f"not possible yet: {error}"
    return f"exports {latte_path} with {vae_path}"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "cache", "sample", "export", "run"), describe)
