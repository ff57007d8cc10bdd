"""DeCo-VAE, then a plain VAE of equal latents, trained equally long on one GPU. Needs a GPU.

python -m pipelines.studies.gpu_training [study.key=value ...]

Full width, bf16, 128 x 128, the loss of pixels only (no downloads), trained on the set `learn` of real clips and scored
on `test`. The motion module is trained before, in a quarter of the time. PSNR of held-out clips over time, steps per
second, peak memory, and MFU (Model FLOPs Utilisation): operations of three forward passes per step over the peak.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines import prepare_data, train_motion, train_vae
from pipelines.inputs.experiment import Experiment
from pipelines.run.folder import read_jsonl
from pipelines.run.ranks import choose_device
from pipelines.run.task import LoopConfig
from pipelines.studies.ablation.timing import StepClock
from pipelines.studies.benchmarks.latte_speed import PEAK_FLOPS
from pipelines.studies.clip_sets import FILES, link_clips
from pipelines.studies.experiments import AUTOENCODER_CODE, SMALL, load_experiment
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main
from vae.registry import build_autoencoder

CONFIG, PLAIN = "configs/ucf101_128.yaml", "configs/overlays/kinetics400_256/plain_equal_latents.yaml"  # same widths
MODELS = {"deco_vae": (CONFIG,), "plain_vae": (CONFIG, PLAIN)}
MINUTES, TINY_MINUTES = 8.0, 0.001
COMMON = (
    *("data.memory_cache_gb=8", "data.probe_seconds=300", "vae.losses.perceptual=0", "vae.gan.weight=0"),
    *("vae.validation_clips=64", "vae.loop.lr=1e-3", "vae.loop.warmup_steps=100", "vae.loop.schedule=cosine"),
    *("motion.loop.lr=1e-3", "motion.loop.warmup_steps=100", "motion.loop.schedule=cosine"),
)
NUM_VALIDATIONS, MOTION_SHARE, PHASE_TWO = 8, 0.25, 0.8


def cases(options: StudySection) -> list[Case]:
    """A case per model."""
    models, minutes = (["deco_vae"], TINY_MINUTES) if options.tiny else (list(MODELS), MINUTES)
    return [Case({"model": model, "minutes": minutes}, 0) for model in models]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Train what is asked for, the motion module first."""
    if choose_device("auto").type != "cuda" and not options.tiny:
        raise ValueError("gpu_training needs a GPU: none is there, or it cannot be used")
    link_clips(options, work / "clips")
    for case in waiting:
        model, minutes = case.arguments["model"], case.arguments["minutes"]
        files = (SMALL,) if options.tiny else MODELS[model]  # full width is too slow for a CPU
        words = [*files, *COMMON, f"data.root={work / 'clips' / 'clips.csv'}"]
        config = load_experiment(options, work, model, words)
        prepare_data.run(config)
        if config.vae.has_motion_module:
            loop = fit(StepClock.of_motion(config, config), config.motion.loop, minutes * MOTION_SHARE)
            config = replace(config, motion=replace(config.motion, loop=loop))
            train_motion.run(config)
        yield Measured(case, round_floats({"device": device_name(config), **train(config, minutes)}))


def train(config: Experiment, minutes: float) -> dict[str, Any]:
    """Train as long as asked, by train_vae.py, and say what came of it."""
    clock = StepClock.of_vae(config, config)
    loop = fit(clock, config.vae.loop, minutes)
    del clock
    adaptation = replace(config.vae.adaptation, phase_two_step=int(PHASE_TWO * loop.steps))
    config = replace(config, vae=replace(config.vae, loop=loop, adaptation=adaptation))
    on_gpu = choose_device(config.run.device).type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    train_vae.run(config)
    log = validations(config, "train_vae")
    rates = [line["steps_per_second"] for line in read_log(config, "train_vae") if "steps_per_second" in line]
    per_second = median(rates)
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device_name(config)), None)
    num_parameters, forward_flops = measure_model(config)
    flops = 3 * forward_flops * loop.global_batch_size  # a backward pass is two forward passes
    return {
        "parameters": num_parameters,
        "steps": loop.steps,
        "clips_per_step": loop.global_batch_size,
        "steps_per_second": per_second,
        "gflops_per_step": flops / 1e9,
        "mfu": flops * per_second / peak if peak else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "log": log,
    }


def fit(clock: StepClock, loop: LoopConfig, minutes: float) -> LoopConfig:
    """As many steps as fit into the time, scored NUM_VALIDATIONS times."""
    clock.seconds_per_step(3)
    steps = max(NUM_VALIDATIONS, int(60 * minutes / clock.seconds_per_step(10)))
    every = max(steps // NUM_VALIDATIONS, 1)
    log_every = max(every // 10, 1)
    return replace(loop, steps=steps, validate_every=every, preview_every=0, checkpoint_every=0, log_every=log_every)


@torch.no_grad()
def measure_model(config: Experiment) -> tuple[int, float]:
    """Parameters, and floating-point operations of the forward pass of one clip."""
    model = build_autoencoder(config.vae)
    clip = torch.zeros(1, 3, config.data.num_frames, config.data.resolution, config.data.resolution)
    with FlopCounterMode(display=False) as counter:
        model(clip, sample=False)
    return model.num_parameters(), float(counter.get_total_flops())


def validations(config: Experiment, stage: str) -> list[dict[str, float]]:
    """Scores over steps and seconds, the time of the validations before included."""
    log = read_log(config, stage)
    timed = [{"step": 0, "seconds": 0.0}]
    for before, line in pairwise([{"step": 0}, *(line for line in log if "steps_per_second" in line)]):
        seconds = (line["step"] - before["step"]) / line["steps_per_second"]
        timed.append({"step": line["step"], "seconds": timed[-1]["seconds"] + seconds})
    scores = []
    for line in log:
        values = {name.split("/")[1]: value for name, value in line.items() if name.startswith("validation/")}
        if values:
            seconds = max(entry["seconds"] for entry in timed if entry["step"] <= line["step"])
            scores.append({"step": line["step"], "seconds": round(seconds, 1), **values})
    return scores


def read_log(config: Experiment, stage: str) -> list[dict[str, Any]]:
    """What a stage logged."""
    return read_jsonl(Path(config.run.root) / config.run.name / stage / "metrics.jsonl")


def device_name(config: Experiment) -> str:
    """The GPU, or cpu."""
    device = choose_device(config.run.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def table(rows: Rows) -> str:
    """A line per model."""
    lines = []
    for row in rows:
        found = row.values
        psnr = next((f"{entry['psnr']:.2f}" for entry in reversed(found["log"]) if "psnr" in entry), "-")
        mfu = f"{found['mfu']:.2f}" if found["mfu"] else "-"
        memory = f"{found['peak_gb']:.1f}" if found["peak_gb"] else "-"
        cells = [f"`{row.arguments['model']}`", found["device"], f"{row.arguments['minutes']:g}", str(found["steps"])]
        cells += [psnr, f"{found['steps_per_second']:.2f}", memory, mfu, f"{found['parameters'] / 1e6:.1f} M"]
        lines.append(([row], cells))
    if not lines:
        return "Not measured yet: needs a GPU."
    head = ["model", "device", "minutes", "steps", "PSNR at the end", "steps/s", "peak GB", "MFU", "parameters"]
    return markdown_table(head, lines)


STUDY = Study(
    "gpu_training",
    (*AUTOENCODER_CODE, CONFIG, PLAIN, FILES, "pipelines.studies.gpu_training"),
    cases,
    measure,
    {"models": table},
)

if __name__ == "__main__":
    main(STUDY)
