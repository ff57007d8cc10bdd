"""README.md of an exported pipeline: how to use it, what it was made from, what was measured, what to beware of."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.inputs.deco_latte import DecoLattePipeline
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.scores import SCORES_FILE
from pipelines.metrics.declared import scores_among

PATH_OPTIONS = ("root", "splits", "init_from", "motion_from", "vae", "latte", "folder")
CLASSES_SHOWN = 10


def write_card(
    file: Path,
    pipeline: DecoLattePipeline,
    packages: list[str],
    config: Experiment,
    inputs: dict[str, dict[str, str]],
    changed: Sequence[str],
) -> None:
    """Write the card. packages: what the code beside the weights imports; none = the pipeline needs this project.

    inputs: {"latte" and "vae": {"path", "hash"}} of the weights. changed: in what the pipeline samples otherwise than
    the run did, for the scores are the run's.
    """
    meta = {"library_name": "diffusers", "tags": ["video-generation", "class-conditional", "latent-diffusion", "latte"]}
    records = {name: read_record(Path(entry["path"])) for name, entry in inputs.items()}
    sections = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False)}---",
        "# DecoLattePipeline",
        describe_model(pipeline),
        usage(pipeline, packages),
        "## Scores\n\n" + describe_scores(find_scores(run_path(config), inputs, config.sample.ema_length)),
        "## Beware\n\n" + caveats(pipeline, records, packages, changed),
        "## Made from\n\n" + describe_origin(records, inputs, config.sample.ema_length),
    ]
    file.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def describe_model(pipeline: DecoLattePipeline) -> str:
    """What goes in and what comes out."""
    architecture, names = pipeline.transformer.architecture, list(pipeline.labels)
    shown = ", ".join(names[:CLASSES_SHOWN]) + (", ..." if len(names) > CLASSES_SHOWN else "")
    latents = ", ".join(f"{part} {tuple(entry['shape'])}" for part, entry in architecture.parts.items())
    return (
        f"A class-conditional video diffusion model: Latte ({architecture.size}, layout {architecture.layout}, "
        f"objective {architecture.objective}, {pipeline.transformer.num_parameters():,} parameters) on the latents of "
        f"{type(pipeline.vae).__name__} ({pipeline.vae.num_parameters():,} parameters; latents as channels, frames, "
        f"height, width: {latents}).\n\nClasses ({len(names)}): {shown or 'none, unconditional'}."
    )


def usage(pipeline: DecoLattePipeline, packages: list[str]) -> str:
    """How to load and call the pipeline."""
    label = f"[{next(iter(pipeline.labels))!r}]" if pipeline.labels else ""
    if packages:
        needs = f"Needs {', '.join(packages)}, and nothing of the project that made it."
        first = "from diffusers import DiffusionPipeline"
        load = 'DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)'
    else:
        needs = "Needs the project that made it (`pip install --editable .` in its folder)."
        first = "from pipelines.inputs.deco_latte import DecoLattePipeline"
        load = 'DecoLattePipeline.from_pretrained("FOLDER")'
    call = ", ".join(part for part in (label, "generator=torch.Generator().manual_seed(0)") if part)
    code = [
        *("import torch", first, "from diffusers.utils import export_to_video", "", f"pipe = {load}"),
        f"videos = pipe({call}).frames  # (b, t, h, w, 3) in [0, 1]",
        'export_to_video(videos[0], "video.mp4", fps=8)',
    ]
    notes = (
        "A list of generators, one per video, makes each video independent of the others. Schedulers are swapped as "
        "everywhere in diffusers: `pipe.scheduler = Other.from_config(pipe.scheduler.config)`."
    )
    return "\n".join(["## Use", "", needs, "", "```python", *code, "```", "", notes])


def find_scores(run_folder: Path, inputs: dict[str, dict[str, str]], ema_length: float) -> dict[str, dict[str, Any]]:
    """{folder of evaluate: scores.json} for samples made with exactly these weights, and with no others."""
    found = {}
    for file in sorted(run_folder.glob(f"evaluate/*/{SCORES_FILE}")):
        record = json.loads((file.parent / "provenance.json").read_text(encoding="utf-8"))
        scored = record["inputs"].get("samples", {}).get("hash", "")  # none where only an autoencoder was scored
        samples = run_folder / "sample" / scored / "provenance.json"
        if samples.is_file():
            made = json.loads(samples.read_text(encoding="utf-8"))
            hashes = {name: entry["hash"] for name, entry in made["inputs"].items()}
            averaged = made["settings"]["sample"]["ema_length"]
            if hashes == {name: entry["hash"] for name, entry in inputs.items()} and averaged == ema_length:
                found[file.parent.name] = json.loads(file.read_text(encoding="utf-8"))
    return found


def describe_scores(found: dict[str, dict[str, Any]]) -> str:
    """Tables of numbers with their meanings; the folder's name tells guidance, steps and seed."""
    if not found:
        return "None were measured with these weights."
    tables = []
    for name, sections in found.items():
        rows = [
            f"| {metric.name} | {value:.4g} | {metric.meaning} |"
            for values in sections.values()
            for metric, value in scores_among(values)
        ]
        tables.append("\n".join([f"`{name}`:\n", "| score | value | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(tables)


def caveats(
    pipeline: DecoLattePipeline, records: dict[str, dict[str, Any]], packages: list[str], changed: Sequence[str]
) -> str:
    """What a reader could otherwise take for granted."""
    notes = [
        *(f"Otherwise than in the run's own samples: {difference}" for difference in changed),
        "Videos have the length and size of the training clips; other sizes were never trained.",
        "It imitates its training data, with the biases and the rights of others that they hold. The licence of these "
        "weights is for whoever publishes them to state.",
        "Class accuracy comes from a small classifier trained for the purpose; a score called proxy is no published "
        "metric. Neither compares with other papers.",
    ]
    if steps := records["latte"].get("steps"):
        notes.insert(0, f"The transformer was trained for {steps:,} steps; more can only be known by trying.")
    if packages:
        notes.append(
            "`trust_remote_code=True` runs the code in this folder: read it, and pin `revision=` when loading it from "
            "a hub."
        )
    return "\n".join(f"- {note}" for note in notes)


def describe_origin(records: dict[str, dict[str, Any]], inputs: dict[str, dict[str, str]], ema_length: float) -> str:
    """Hashes of weights and data, commit and settings of both trainings."""
    pieces = [f"The weights of latte are averaged over {ema_length:g} of the training instead."] if ema_length else []
    for name, record in records.items():
        lines = [f"- {name} weights: sha256 `{inputs[name]['hash']}`"]
        lines += [f"- {name}: {key} `{value}`" for key, value in record.get("origin", {}).items()]
        if settings := record.get("settings"):
            lines.append(f"\n```yaml\n{yaml.safe_dump(settings, sort_keys=False, width=120)}```")
        else:
            lines.append(f"- {name}: nothing else is known, the weights do not stand in a run folder")
        pieces.append("\n".join(lines))
    return "\n\n".join(pieces)


def read_record(weights: Path) -> dict[str, Any]:
    """What the run folder around weights says of them: {} outside one; paths are cut to their last part."""
    file = weights.parent / "provenance.json"
    if not file.is_file():
        return {}
    made = json.loads(file.read_text(encoding="utf-8"))
    section = weights.parent.name.removeprefix("train_")
    settings = {name: without_paths(made["settings"][name]) for name in ("data", section) if name in made["settings"]}
    origin = {"commit": made["git_commit"]}
    origin |= {f"{name} (hash)": entry["hash"] for name, entry in made["inputs"].items()}
    steps = made["settings"].get(section, {}).get("loop", {}).get("steps")
    return {"settings": settings, "origin": origin, "steps": steps}


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Folders and files of the machine that trained are nobody else's business: only their names stay."""
    return {
        name: without_paths(value)
        if isinstance(value, dict)
        else Path(value).name
        if name in PATH_OPTIONS and isinstance(value, str)
        else value
        for name, value in settings.items()
    }
