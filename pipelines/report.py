"""One page about a run, or about many: python pipelines/report.py [CONFIG.yaml ...] [key=value ...]

Scores, logs, samples, a few clips -> runs/<run>/report/: index.html (self-contained), summary.json and two GIFs.
Each configuration keeps its own in runs/<run>/report/<scores>/; those beside the folders are of the last call.
With report.runs=[A,B] or report.runs=[runs], scores of many runs -> runs/leaderboard/: index.html and leaderboard.json.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.pages import page_environment
from pipelines.data.pictures import (
    FLOW_RANGE_PIXELS,
    RESIDUAL_GAIN,
    component_videos,
    data_uri,
    flow_wheel,
    label_columns,
    label_rows,
    png,
    scale_to,
    tile,
    video_uri,
)
from pipelines.data.video_file import to_uint8, write_gif
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import model_paths
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.samples import NOT_IN_NAME as FREE_IN_SAMPLES
from pipelines.inputs.samples import read_samples, sample_folder
from pipelines.inputs.scores import NOT_IN_NAME as FREE_IN_SCORES
from pipelines.inputs.scores import SCORES_FILE, scores_folder
from pipelines.inputs.training_stages import training_stages
from pipelines.metrics.clip_set import evenly_spaced
from pipelines.metrics.declared import ALWAYS, IF_MEASURED, RECONSTRUCTION, declared_metrics
from pipelines.parts.report import leaderboard
from pipelines.parts.report.animations import animate_pictures
from pipelines.parts.report.curves import PANELS, draw_curves
from pipelines.parts.report.results import find_results
from pipelines.parts.report.texts import CURVES, frechet_record, headline, score_table
from pipelines.run.config import to_yaml
from pipelines.run.folder import StageFolder, write_json, write_text
from pipelines.run.ranks import choose_device
from pipelines.run.stage import alone, main, select
from vae.interface import crop
from vae.registry import load_autoencoder

STAGE, EVALUATE = "report", "evaluate"
TEMPLATES = Path(__file__).parent / "parts" / "report"
# Options that change how samples and scores are made, not which ones.
FREE = {"sample": FREE_IN_SAMPLES, EVALUATE: FREE_IN_SCORES}
LEADERBOARD = "leaderboard"  # below run.root
SECTIONS = ("data", "motion", "vae", "cache", "latte", "sample", "evaluate", "run")
NUM_CLIPS, NUM_CLASSES, VIDEOS_PER_CLASS = 6, 16, 4
GIF_CLIPS, GIF_CLASSES, GIF_BYTES = 3, 8, 1_000_000
GIF_CELLS, GIF_COLUMNS = (96, 72, 48), (4, 3, 2)  # tried in turn until a GIF is small enough


@alone
def run(config: Experiment) -> None:
    """Write the leaderboard of report.runs, or the page, the summary and the pictures of exactly this configuration."""
    if config.report.runs:
        write_leaderboard(config)
        return
    index = open_index(config)
    stages = read_stages(config)
    scored = scores_folder(config)
    scores = json.loads((scored / SCORES_FILE).read_text())
    folder = StageFolder(config.run.root, config.run.name, f"{STAGE}/{scored.name}")
    inputs = {"scores": {"path": str(scored.parent), "hash": scored.name}}
    with folder.open(select(config, SECTIONS), inputs, ("*",)):
        components = decode_components(config, index)
        rows = collect_classes(config, index)
        write_json(folder.path / "summary.json", summarise(scores, stages))
        given = animate_pictures(config, index)
        write_text(folder.path / "index.html", render(config, index, stages, scores, components, rows, given))
        write_gifs(folder.path, components, rows, config.sample.fps)
        for name in ("summary.json", "index.html", "samples.gif", "components.gif"):
            publish_copy(folder.path / name, folder.path.parent / name)
        folder.finish()
        print(f"{STAGE}: {folder.path.parent / 'index.html'}")


def write_leaderboard(config: Experiment) -> None:
    """runs/leaderboard/index.html and leaderboard.json; ValueError where what is asked for may not be compared."""
    results = find_results(config.report.runs, config.run.root)
    page = leaderboard.render(results, config.report.compare, shlex.join(["python", *sys.argv]))
    folder = Path(config.run.root) / LEADERBOARD
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "leaderboard.json", leaderboard.as_json(results))
    write_text(folder / "index.html", page)
    print(f"{STAGE}: {len(results)} results in {folder / 'index.html'}")


def read_stages(config: Experiment) -> dict[str, dict[str, Any]]:
    """{stage: seconds, peak_rss_gb, git_commit} of every stage behind the page.

    Raises:
        ValueError: a stage is not finished, or was made with other settings than `config`.
    """
    skipped = set(PANELS) - set(training_stages(config))
    chain = ("prepare_data", "train_motion", "train_vae", "cache_latents", "train_latte")
    folders = {stage: stage for stage in chain if stage not in skipped}
    folders |= {"sample": f"sample/{sample_folder(config).name}", EVALUATE: f"{EVALUATE}/{scores_folder(config).name}"}
    stages = {}
    for stage, name in folders.items():
        path = run_path(config) / name
        if not (path / "done.json").exists():
            raise ValueError(f"{path} is not finished: run python pipelines/chain.py with the same configuration")
        made = json.loads((path / "provenance.json").read_text())
        sections = [section for section in SECTIONS if section in made["settings"] and section != "run"]
        wanted = select(config, sections)
        before = as_today(made["settings"], select(Experiment(), sections))
        for section in FREE.keys() & wanted.keys():
            wanted[section] |= {name: before[section][name] for name in FREE[section]}
        if changed := differences(before, wanted):
            raise ValueError(
                f"{path} was made with other settings, {', '.join(changed)}: run python pipelines/chain.py with this "
                "configuration first"
            )
        done = json.loads((path / "done.json").read_text())
        stages[stage] = {name: done[name] for name in ("seconds", "peak_rss_gb")} | {"git_commit": made["git_commit"]}
    return stages


def as_today(made: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote: new options at their defaults, without those that there are no longer."""
    return {
        name: as_today(made.get(name, {}), default)
        if isinstance(default, Mapping) and default
        else made.get(name, default)
        for name, default in defaults.items()
    }


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the options whose values differ, with both values."""
    found = []
    for name in sorted(made.keys() | wanted.keys()):
        old, new = made.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} (was {old!r}, now {new!r})")
    return found


def summarise(scores: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json holds; a score that does not exist for this run (no classes, no motion) is null."""
    summary: dict[str, Any] = {"reconstruction": {}, "generation": {}}
    for name, metric in declared_metrics().items():
        section = "reconstruction" if metric.table == RECONSTRUCTION else "generation"
        if metric.summary == ALWAYS or metric.summary == IF_MEASURED and name in scores[section]:
            summary[section][name] = scores[section].get(name)
            if floor := (scores[section].get(f"{name}_record") or {}).get("floor"):
                summary[section][f"{name}_floor"] = floor["value"]  # of two sets of real clips
    summary["seconds"] = {stage: entry["seconds"] for stage, entry in stages.items()}
    summary["peak_rss_gb"] = max(entry["peak_rss_gb"] for entry in stages.values())
    return summary


@torch.no_grad()
def decode_components(config: Experiment, index: ClipIndex) -> list[tuple[str, dict[str, Tensor]]]:
    """(path, {component: (t, h, w, 3) uint8}) of a few held-out clips, spread over the files."""
    device = choose_device(config.run.device)
    vae = load_autoencoder(model_paths(config)[1]).to(device)
    clips = FixedClips(index, config.data, "validation")
    shown = []
    for clip in (clips[i] for i in evenly_spaced(len(clips), NUM_CLIPS)):
        video = collate([clip])["video"]
        components = vae.decode_components(vae.pad_clip(video).to(device))
        cropped = {name: crop(component.cpu(), video.shape[2:])[0] for name, component in components.items()}
        shown.append((str(clip["path"]), component_videos(cropped, video[0], vae.picture_rows)))
    return shown


def collect_classes(config: Experiment, index: ClipIndex) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """(class, generated, real) with the videos (t, h, w, 3) uint8, for classes that were sampled, evenly chosen."""
    plan, videos = read_samples(sample_folder(config))
    clips = FixedClips(index, config.data, "validation")
    labels = [clips.describe(i)["label"] for i in range(len(clips))]
    classes = {entry["label"]: entry["class"] or "" for entry in plan}
    rows = []
    for label in [list(classes)[i] for i in evenly_spaced(len(classes), NUM_CLASSES)]:
        generated = [video for entry, video in zip(plan, videos, strict=True) if entry["label"] == label]
        # A Latte from another run may know a class by another number, or one that these clips do not have.
        own = index.classes.index(classes[label]) if classes[label] in index.classes else -1
        positions = [i for i, known in enumerate(labels) if known == own or not classes[label]]
        real = [to_uint8(clips[positions[i]]["video"]) for i in evenly_spaced(len(positions), VIDEOS_PER_CLASS)]
        rows.append((classes[label], generated, real))
    return rows


def render(
    config: Experiment,
    index: ClipIndex,
    stages: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
    components: list[tuple[str, dict[str, Tensor]]],
    rows: list[tuple[str, list[Tensor], list[Tensor]]],
    given: list[tuple[str, list[Tensor]]],
) -> str:
    """The page as HTML: every picture inside, no request to anywhere. Videos are (t, h, w, 3) uint8."""
    data = config.data
    curves = [
        {"stage": stage, "meaning": CURVES[stage], "source": data_uri("image/svg+xml", svg.encode())}
        for stage in training_stages(config)
        if (svg := draw_curves(run_path(config) / stage / "metrics.jsonl", PANELS[stage]))
    ]
    counts = [sum(entry.split == split for entry in index.entries) for split in ("train", "validation")]
    has_motion = "motion" in components[0][1]
    return (
        page_environment(TEMPLATES)
        .get_template("report.html.jinja")
        .render(
            title=config.run.name,
            subtitle=f"Decoupled latent video diffusion on {counts[0]} training and {counts[1]} held-out files"
            f"{f' of {len(index.classes)} classes' if index.classes else ''}; clips of {data.num_frames} frames, "
            f"{data.resolution}\u00a0×\u00a0{data.resolution} pixels; {config.vae.name} and Latte {config.latte.size}.",
            tiles=headline(scores, stages, len(index.classes)),
            component_names=list(components[0][1]),
            clips=[
                {"name": name, "source": video_uri(list(shown.values()), len(shown), config.sample.fps)}
                for name, shown in components
            ],
            wheel=data_uri("image/png", png(flow_wheel(144))) if has_motion else "",
            adds_up=config.vae.deco_vae.recoupling == "additive",
            sample=config.sample,
            flow_range=f"{FLOW_RANGE_PIXELS:g}",
            residual_gain=f"{RESIDUAL_GAIN:g}",
            classes=[
                {
                    "name": name,
                    "generated": video_uri(generated[:VIDEOS_PER_CLASS], VIDEOS_PER_CLASS, config.sample.fps),
                    "real": video_uri(real, VIDEOS_PER_CLASS, config.sample.fps) if real else "",
                }
                for name, generated, real in rows
            ],
            given=[(name, video_uri(videos, len(videos), config.sample.fps)) for name, videos in given],
            curves=curves,
            scores=score_table(scores),
            frechet=frechet_record(scores["generation"]),
            scores_file=f"{EVALUATE}/{scores_folder(config).name}/{SCORES_FILE}",
            command=shlex.join(["python", *sys.argv]),
            stages=[{"name": stage, **entry} for stage, entry in stages.items()],
            config=to_yaml(config),
        )
    )


def write_gifs(
    folder: Path,
    components: list[tuple[str, dict[str, Tensor]]],
    rows: list[tuple[str, list[Tensor], list[Tensor]]],
    fps: float,
) -> None:
    """samples.gif and components.gif, for pages that show no WebP, each below 1 MB. Videos are (t, h, w, 3) uint8."""
    names = list(components[0][1])
    resolution = rows[0][1][0].shape[1]
    for size in (min(cell, 2 * resolution) for cell in GIF_CELLS):
        shown = [[scale_to(video, size) for video in videos.values()] for _, videos in components[:GIF_CLIPS]]
        write_gif(folder / "components.gif", label_columns(tile(shown), names, size), fps)
        if (folder / "components.gif").stat().st_size <= GIF_BYTES:
            break
    size = min(64, resolution)
    for columns in GIF_COLUMNS:
        grid = tile([[scale_to(video, size) for video in videos[:columns]] for _, videos, _ in rows[:GIF_CLASSES]])
        if any(name for name, _, _ in rows):
            grid = label_rows(grid, [name for name, _, _ in rows[:GIF_CLASSES]], size)
        write_gif(folder / "samples.gif", grid, fps)
        if (folder / "samples.gif").stat().st_size <= GIF_BYTES:
            break


def publish_copy(source: Path, target: Path) -> None:
    """Copy a file so that a reader sees the old or the new one whole."""
    part = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.copyfile(source, part)
    os.replace(part, target)


if __name__ == "__main__":
    main(STAGE, run, Experiment, (*SECTIONS, "report"))
