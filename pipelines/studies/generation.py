"""Ways to make latents, and to train a transformer on them, told apart by what is generated: latents and latte_recipe.

On the clips and with the options of the demo, each training in one thread, some side by side. Judged are videos that
are made freely, as evaluate does, and videos that are made for given first frames of held-out clips.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from latte.sampler import generate
from pipelines import cache_latents, evaluate, sample, train_latte, train_motion, train_vae
from pipelines.data.video_file import to_uint8
from pipelines.inputs.cache import open_cache
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import load_latte, model_paths
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.samples import sampler_settings
from pipelines.inputs.scores import SCORES_FILE, scores_folder
from pipelines.metrics.clip_set import evenly_spaced
from pipelines.metrics.scene_fidelity import accepted
from pipelines.parts.evaluate.scene_reader import read_scenes
from pipelines.run.folder import write_json
from pipelines.studies.ablation.timing import StepClock, compare
from pipelines.studies.ablation_page import over
from pipelines.studies.experiments import CHAIN_CODE, DEMO, load_experiment
from pipelines.studies.result_rows import Rows, markdown_table
from pipelines.studies.study import Case, StudySection
from vae.registry import load_autoencoder

PROCESSES, BATCH, NUM_GIVEN = 2, 16, 64
CODE = (*CHAIN_CODE, "pipelines.studies.generation", "pipelines.studies.ablation.timing", DEMO)
ALONE = (
    *("run.threads=1", "run.cpu_processes=1", "motion.loop.preview_every=0", "vae.loop.preview_every=0"),
    *("latte.loop.preview_every=0", "evaluate.reconstruction_clips=64", "evaluate.rfvd_clips=0"),
)
STAGES = {
    stage.STAGE: stage.run for stage in (train_motion, train_vae, cache_latents, train_latte, sample, evaluate)
}  # in the order in which they run
GENERATED = ("fvd16", "two_sample_accuracy", "accepted", "fidelity", "class_accuracy", "blockiness")
Record = dict[str, Any]


def experiment(options: StudySection, work: Path, name: str, words: Sequence[str], seed: int = 0) -> Experiment:
    """The demo with other options, as run `name`."""
    return load_experiment(options, work, name, [DEMO, *ALONE, *words, f"run.seed={seed}"])


def run_stages(config: Experiment, stages: Sequence[str], shared: Mapping[str, Path]) -> None:
    """Run stages, one after the other; shared: {stage: run folder} whose outcome stands in for one of this run."""
    torch.set_num_threads(1)
    for stage, source in shared.items():
        run_path(config).mkdir(parents=True, exist_ok=True)
        if not (link := run_path(config) / stage).exists():
            link.symlink_to((source / stage).resolve(), target_is_directory=True)
    for stage in stages:
        STAGES[stage](config)


def run_all(jobs: Sequence[tuple[str, Callable[..., Any], tuple[Any, ...]]], tiny: bool) -> Iterator[tuple[str, Any]]:
    """(name, result) of each job (name, function, arguments), some at a time in processes of their own."""
    if tiny:
        yield from ((name, function(*arguments)) for name, function, arguments in jobs)
        return
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(function, *arguments): name for name, function, arguments in jobs}
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def equal_steps(
    file: Path, steps: int, configs: Mapping[str, Experiment], clock: Callable[[Experiment], StepClock], tiny: bool
) -> dict[str, int]:
    """Steps of every way in the time that the first one takes for `steps`; the measurement stands in `file`.

    clock: gives what times the steps of a configuration.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    reference = clock(next(iter(configs.values())))
    for name, config in configs.items():
        if name not in found:
            found[name] = compare(clock(config), reference, *((1, 1) if tiny else (6, 2)))
            write_json(file, found)
    first = found[next(iter(configs))]["ratio"]
    return {name: max(1, round(steps * first / found[name]["ratio"])) for name in configs}


def scores_of(config: Experiment) -> Record:
    """What a finished run gave: its scores, size and speed."""
    scores = json.loads((scores_folder(config) / SCORES_FILE).read_text())
    model = load_latte(model_paths(config)[0], torch.device("cpu"))
    generation, reconstruction = scores["generation"], scores["reconstruction"]
    found: Record = {name: generation.get(name) for name in (*GENERATED, "fidelity_real", "two_sample_accuracy_real")}
    floor = (generation.get("fvd16_record") or {}).get("floor") or {}
    return {
        **found,
        "fvd16_floor": floor.get("value"),
        "fvd16_clips": floor.get("num_videos"),
        "psnr": reconstruction["psnr"],
        "psnr_warp_decoded": reconstruction.get("psnr_warp_decoded"),
        "values_per_clip": sum(torch.Size(shape).numel() for shape in model.layout.parts.values()),
        "vae_steps": config.vae.loop.steps,
        "latte_steps": config.latte.loop.steps,
        **judge_given(config, model),
    }


@torch.no_grad()
def judge_given(config: Experiment, model: Any) -> Record:
    """`accepted` and class accuracy of videos made for given first frames, each with the next motion in turn.

    {} where the model takes no first frame. The level is that of the same clips, decoded from their latents.
    """
    if not model.training_options.clean_keyframe_share:
        return {}
    cache, vae = open_cache(config, open_index(config)), load_autoencoder(model_paths(config)[1])
    positions = cache.split("validation")
    chosen = [positions[i] for i in evenly_spaced(len(positions), NUM_GIVEN)]
    latents = cache.latents(chosen, whiten=False)
    labels = [number % len(cache.classes) for number in range(len(chosen))]
    settings, given = sampler_settings(config, bool(model.num_classes)), {"keyframe": latents["keyframe"]}
    samples = list(generate(model, labels, labels_to_seeds(labels), settings, BATCH, torch.device("cpu"), None, given))
    made = {part: torch.stack([one["latents"][part] for one in samples]) for part in latents}
    readings, real = (
        read_scenes(torch.cat([to_uint8(vae.decode(dict(zip(side, rows, strict=True)))) for rows in batches(side)]))
        for side in (made, latents)
    )
    right = [cache.classes[label] == motion for label, motion in zip(labels, readings.motions, strict=True)]
    share, _ = accepted(readings.fidelity, real.fidelity)
    return {"given_accepted": share, "given_class_accuracy": fmean(right)}


def labels_to_seeds(labels: Sequence[int]) -> list[int]:
    """A seed of its own for each."""
    return list(range(len(labels)))


def batches(latents: Mapping[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The parts of some clips at a time, in their order."""
    return zip(*(part.split(BATCH) for part in latents.values()), strict=True)


HEAD = [
    *("FVD16", "its floor, clips", "two-sample accuracy (real)", "`accepted`", "fidelity (real), dB", "class accuracy"),
    *("first frame given: `accepted`", "class accuracy"),
]


def cells_of(rows: Rows) -> list[str]:
    """The cells of HEAD for the seeds of one way."""
    found = [row.values for row in rows]

    def mean(name: str, form: str = ".2f") -> str:
        return over([run.get(name) for run in found], form)

    floor = "-" if found[0]["fvd16_floor"] is None else f"{found[0]['fvd16_floor']:.0f}, {found[0]['fvd16_clips']}"
    pairs = [
        f"{mean(name, form)} ({mean(real, form)})"
        for name, real, form in (
            ("two_sample_accuracy", "two_sample_accuracy_real", ".2f"),
            ("fidelity", "fidelity_real", ".1f"),
        )
    ]
    given = [mean("given_accepted"), mean("given_class_accuracy")]
    return [mean("fvd16", ".0f"), floor, pairs[0], mean("accepted"), pairs[1], mean("class_accuracy"), *given]


def table_of(rows: Rows, head: Sequence[str], first: Callable[[Rows], list[str]]) -> str:
    """A line per way: its name, how many seeds, what `first` gives under `head`, and what was generated."""
    lines = []
    for way in dict.fromkeys(row.arguments["way"] for row in rows):
        own = [row for row in rows if row.arguments["way"] == way]
        lines.append((own, [f"`{way}`", str(len(own)), *first(own), *cells_of(own)]))
    return markdown_table(["way", "seeds", *head, *HEAD], lines)


def cases_of(ways: Sequence[str], seeds: Sequence[int], options: StudySection) -> list[Case]:
    """A case per way and seed, seed after seed."""
    ways, seeds = (ways[:1], seeds[:1]) if options.tiny else (ways, seeds)
    return [Case({"way": way}, seed) for seed in seeds for way in ways]


def with_latte_steps(config: Experiment, steps: int) -> Experiment:
    """The same with another length of the transformer's training."""
    return replace(config, latte=replace(config.latte, loop=replace(config.latte.loop, steps=steps)))
