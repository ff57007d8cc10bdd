"""Latte trained in several ways from one cache of latents, and judged: what latent_layouts and latte_presets share.

Every training sees the same clips in the same order. Generated videos are judged by classifiers that know real training
clips (as they are, and decoded from the cache): class accuracy; at the end also the distance to the nearest training
clip, diversity, and FVD16 beside that of training clips to held-out ones.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines import cache_latents, train_latte
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.run_paths import run_path
from pipelines.parts.sample.plan import plan_samples
from pipelines.run.folder import read_jsonl
from pipelines.sample import generate_videos
from pipelines.studies.experiments import CHAIN_CODE, SMALL, actions64, load_experiment, train_autoencoder
from pipelines.studies.judges import Judges
from pipelines.studies.study import StudySection
from vae.registry import load_autoencoder

PROCESSES, TINY_STEPS = 2, 2
CODE = (*CHAIN_CODE, "pipelines.studies.judges", "pipelines.studies.latte_training", SMALL)
Record = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One way to train: its name, the words that distinguish it, and the steps at which it is judged."""

    name: str
    words: tuple[str, ...]
    milestones: tuple[int, ...]
    is_judged: bool = True  # False: its validation loss is all that is wanted


def floor_of(record: Record) -> str:
    """A cell of a table: the FVD between training and held-out clips, and of how many."""
    return f"{record['fvd16_floor']:.0f}, {record['fvd16_clips']}" if record.get("fvd16_floor") else "-"


def train_all(options: StudySection, work: Path, trainings: Sequence[Training]) -> Iterator[tuple[str, list[Record]]]:
    """Train the autoencoder and cache its latents, then yield (name, a record per milestone) of every training."""
    base = load_experiment(options, work, "base", [SMALL, *actions64(options)])
    train_autoencoder(base)
    cache_latents.run(base)
    judges = Judges.fit(base)
    if options.tiny:
        short = [replace(training, milestones=(TINY_STEPS,)) for training in trainings]
        yield from (train_and_judge(options, work, training, judges) for training in short)
        return
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(train_and_judge, options, work, training, judges) for training in trainings]
        yield from (done.result() for done in as_completed(waiting))


def train_and_judge(options: StudySection, work: Path, training: Training, judges: Judges) -> tuple[str, list[Record]]:
    """One training in a run of its own, with the clips, the autoencoder and the cache of all."""
    torch.set_num_threads(1)
    words = [SMALL, *training.words, *actions64(options), "run.threads=1", f"cache.vae={work / 'base'}"]
    config = load_experiment(options, work, training.name, words)
    run_path(config).mkdir(parents=True, exist_ok=True)
    for stage in ("prepare_data", "cache_latents"):
        if not (link := run_path(config) / stage).exists():
            link.symlink_to((work / "base" / stage).resolve(), target_is_directory=True)
    records = []
    for steps in training.milestones:
        loop = replace(config.latte.loop, steps=steps, validate_every=0, preview_every=0)
        config = replace(config, latte=replace(config.latte, loop=loop))
        train_latte.run(config)
        metrics = read_jsonl(run_path(config) / train_latte.STAGE / "metrics.jsonl")
        record = {
            "steps": steps,
            "loss": [line["validation/loss"] for line in metrics if "validation/loss" in line][-1],
        }
        record["steps_per_second"] = [line["steps_per_second"] for line in metrics if "steps_per_second" in line][-1]
        if training.is_judged:
            record |= judge(config, judges, is_last=steps == training.milestones[-1])
        records.append(record)
    return training.name, records


def judge(config: Experiment, judges: Judges, is_last: bool) -> Record:
    """Class accuracy of new videos; at the last milestone what takes longer too, and the same of real clips."""
    device = torch.device("cpu")
    latte, autoencoder = model_paths(config)
    model, vae = load_latte(latte, device), load_autoencoder(autoencoder)
    plan = plan_samples(config, model)
    videos = torch.stack(list(generate_videos(model, vae, plan, config, device)))
    labels = torch.tensor([entry["label"] for entry in plan])
    tokens = sum(stream.frames * stream.height * stream.width // model.patch**2 for stream in model.layout.streams)
    last = {**judges.scores(videos, labels), **judges.controls(), "tokens": tokens}
    return {"class_accuracy": judges.accuracy(videos, labels), **(last if is_last else {})}
