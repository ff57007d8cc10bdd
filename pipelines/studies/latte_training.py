"""Layouts of Latte at equal steps, or its presets step by step, on cached latents: docs/results/latent_layouts.json or
latte_presets.json, and the table of it as Markdown on the standard output.

python pipelines/studies/latte_training.py layouts|presets CONFIG.yaml data.root=FOLDER cache.vae=MODEL [key=value ...]

Every row is trained from the same cache with the same batches of clips. Generated videos are judged by classifiers that
know real training clips (as they are, and decoded from the cache). Beside the class accuracy stand the distance to the
nearest training clip over that of held-out real clips (far below 1: copies), diversity over that of real clips, and
proxy_fvd16. Rows that the JSON has already are not trained again; a row that was interrupted goes on.
"""

import itertools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from pipelines import cache_latents, prepare_data, train_latte
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.run_paths import run_path
from pipelines.parts.sample.plan import plan_samples
from pipelines.run.config import load_config
from pipelines.run.folder import git_commit, read_jsonl, write_json
from pipelines.sample import generate_videos
from pipelines.studies.judges import Judges
from vae.registry import load_autoencoder

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "configs" / "small_64.yaml"
OVERLAYS = ROOT / "configs" / "overlays"
LAYOUTS, SEEDS = ("keyframe_first", "channel", "tokens"), (0, 1, 2)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TUNING_STEPS = 1000
MILESTONES = (250, 500, 750, 1000, 1500, 2000, 3000)
ENOUGH = 0.8  # class accuracy
# What both presets share: the EMA's horizon, the batch and the schedule, with which every step is a result of its own.
EQUAL = (
    *("latte.loop.schedule=constant", "latte.loop.warmup_steps=50", "latte.loop.betas=[0.9,0.99]"),
    *("latte.loop.ema_decay=0.995", "latte.loop.ema_warmup=true"),
)


@dataclass(frozen=True)
class Row:
    """One training: what it is called, its part of the command line, and the steps at which it is judged."""

    name: str
    arguments: tuple[str, ...]
    milestones: tuple[int, ...]
    seed: int = 0
    judged: bool = True  # False: its validation loss is all that is wanted


def main(arguments: list[str]) -> None:
    kind, *arguments = arguments
    if kind not in ("layouts", "presets"):
        raise SystemExit(__doc__)
    config = load_config(Experiment, arguments, DEFAULT)
    prepare_data.run(config)
    cache_latents.run(config)
    judges = Judges.fit(config)
    controls: dict[str, Any] = judges.controls()
    file = ROOT / "docs" / "results" / ("latent_layouts.json" if kind == "layouts" else "latte_presets.json")
    if kind == "layouts":
        layouts = [
            Row(
                f"{layout}-seed{seed}", (f"latte.layout={layout}", f"run.seed={seed}"), (config.latte.loop.steps,), seed
            )
            for seed, layout in itertools.product(SEEDS, LAYOUTS)
        ]
        print(layout_table(run_rows(layouts, arguments, judges, file, controls), controls))
        return
    presets = {name: (str(OVERLAYS / f"{name}.yaml"), *EQUAL) for name in ("modern", "latte_parity")}
    tuning = [
        Row(f"{preset}-lr{rate:g}", (*presets[preset], f"latte.loop.lr={rate}"), (TUNING_STEPS,), judged=False)
        for preset, rate in itertools.product(presets, RATES)
    ]
    tuned = run_rows(tuning, arguments, judges, file, controls)
    best = {preset: min(RATES, key=lambda rate: tuned[f"{preset}-lr{rate:g}"][-1]["loss"]) for preset in presets}
    chosen = [
        Row(f"{preset}-lr{rate:g}-judged", (*presets[preset], f"latte.loop.lr={rate}"), MILESTONES)
        for preset, rate in best.items()
    ]
    print(preset_table(run_rows(chosen, arguments, judges, file, controls | {"rate": best})))


def layout_table(rows: dict[str, list[dict[str, Any]]], controls: dict[str, Any]) -> str:
    """A line per layout: mean and standard deviation over the seeds of every score at the last step."""
    real = controls["nearest_training_clip_real"]
    lines = [
        "| layout | class accuracy | proxy_fvd16 | diversity | nearest training clip / that of real clips | steps/s |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for layout in LAYOUTS:
        last = [rows[f"{layout}-seed{seed}"][-1] for seed in SEEDS]
        values = [[record[name] for record in last] for name in ("class_accuracy", "proxy_fvd16", "diversity")]
        values.append([record["nearest_training_clip"] / real for record in last])
        values.append([record["steps_per_second"] for record in last])
        cells = [f"{fmean(own):.3g} ± {stdev(own):.2g}" for own in values]
        lines.append(f"| `{layout}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def preset_table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """A line per judged row: its class accuracy at every milestone, and the first one at which it was enough."""
    lines = [f"| row | {' | '.join(map(str, MILESTONES))} | steps to {ENOUGH} |", "|---" * (len(MILESTONES) + 2) + "|"]
    for name, records in rows.items():
        if name.endswith("-judged"):
            reached = next((record["steps"] for record in records if record["class_accuracy"] >= ENOUGH), "never")
            cells = [f"{record['class_accuracy']:.2f}" for record in records]
            lines.append(f"| {name.removesuffix('-judged')} | {' | '.join(cells)} | {reached} |")
    return "\n".join(lines)


def run_rows(
    rows: Sequence[Row], arguments: Sequence[str], judges: Judges, file: Path, controls: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Train and judge what the file lacks, two rows side by side; {row: one record per milestone}."""
    content = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    content |= controls | {"git_commit": git_commit(), "arguments": [a for a in arguments if "/" not in a]}
    missing = [row for row in rows if len(content["rows"].get(row.name, [])) < len(row.milestones)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        for done in as_completed([pool.submit(run_row, row, list(arguments), judges) for row in missing]):
            name, records = done.result()
            content["rows"][name] = records
            write_json(file, content)
            print(name, json.dumps(records[-1]), flush=True)
    return content["rows"]


def run_row(row: Row, arguments: list[str], judges: Judges) -> tuple[str, list[dict[str, Any]]]:
    """Train one row in a run folder of its own, with the clips and the cache of all, and judge it at its milestones."""
    files = [word for word in (*arguments, *row.arguments) if word.endswith(".yaml") and "=" not in word]
    options = [word for word in (*arguments, *row.arguments) if word not in files]
    base = load_config(Experiment, arguments, DEFAULT)
    config = load_config(Experiment, [*files, *options], DEFAULT)
    config = replace(config, run=replace(config.run, name=f"{config.run.name}-{row.name}", threads=1))
    torch.set_num_threads(1)
    run_path(config).mkdir(parents=True, exist_ok=True)
    for stage in ("prepare_data", "cache_latents"):
        if not (link := run_path(config) / stage).exists():
            link.symlink_to((run_path(base) / stage).resolve(), target_is_directory=True)
    records = []
    for steps in row.milestones:
        loop = replace(config.latte.loop, steps=steps, validate_every=0, preview_every=0)
        config = replace(config, latte=replace(config.latte, loop=loop))
        train_latte.run(config)
        metrics = read_jsonl(run_path(config) / train_latte.STAGE / "metrics.jsonl")
        record = {"steps": steps, "loss": [m["validation/loss"] for m in metrics if "validation/loss" in m][-1]}
        record["steps_per_second"] = [m["steps_per_second"] for m in metrics if "steps_per_second" in m][-1]
        if row.judged:
            record |= judge(config, judges, is_last=steps == row.milestones[-1])
        records.append(record)
    return row.name, records


def judge(config: Experiment, judges: Judges, is_last: bool) -> dict[str, float]:
    """Class accuracy of new videos; at the last milestone what takes longer too."""
    device = torch.device("cpu")
    latte, autoencoder = model_paths(config)
    model, vae = load_latte(latte, device), load_autoencoder(autoencoder)
    plan = plan_samples(config, model)
    videos = torch.stack(list(generate_videos(model, vae, plan, config, device)))
    labels = torch.tensor([entry["label"] for entry in plan])
    return {"class_accuracy": judges.accuracy(videos, labels), **(judges.scores(videos, labels) if is_last else {})}


if __name__ == "__main__":
    main(sys.argv[1:])
