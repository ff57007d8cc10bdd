"""DeCo-VAE, then a plain VAE of equal latents, trained equally long on one GPU: docs/results/gpu_training.json.

python pipelines/studies/gpu_training.py configs/ucf101_128.yaml data.root=FOLDER run.name=NAME [...] [minutes=8]

Full width, bf16, 128 x 128, the loss of pixels only (no downloads). The motion module is trained before, in a quarter
of the time. What it writes per model: PSNR of held-out clips over time, steps per second, peak memory, and MFU (Model
FLOPs Utilisation): floating-point operations of three forward passes per step and clip, per second, over the peak.
"""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines import prepare_data, train_motion, train_vae
from pipelines.inputs.experiment import Experiment
from pipelines.run.config import load_config
from pipelines.run.folder import git_commit, read_jsonl, write_json
from pipelines.run.ranks import choose_device
from pipelines.run.task import LoopConfig
from pipelines.studies.ablation.timing import StepClock
from vae.registry import build_autoencoder

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "configs" / "overlays" / "kinetics400_256"  # the same widths
PEAK_FLOPS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}  # dense bf16, data sheets
COMMON = [
    *("data.memory_cache_gb=8", "data.probe_seconds=300", "vae.losses.perceptual=0", "vae.gan.weight=0"),
    *("vae.validation_clips=64", "vae.loop.lr=1e-3", "vae.loop.warmup_steps=100", "vae.loop.schedule=cosine"),
    *("motion.loop.lr=1e-3", "motion.loop.warmup_steps=100", "motion.loop.schedule=cosine"),
]
NUM_VALIDATIONS, MOTION_SHARE, PHASE_TWO = 8, 0.25, 0.8


def main(arguments: list[str]) -> None:
    minutes = float(dict(word.split("=", 1) for word in arguments if "=" in word).get("minutes", 8))
    arguments = [word for word in arguments if not word.startswith("minutes=")]

    def load(*more: str) -> Experiment:
        files = [word for word in arguments if word.endswith((".yaml", ".yml"))]
        options = [word for word in arguments if word not in files]
        overlays = [word for word in more if word.endswith(".yaml")]
        words = [*files, *overlays, *COMMON, *options, *(word for word in more if word not in overlays)]
        return load_config(Experiment, words, ROOT / "configs" / "ucf101_128.yaml")

    config = load()
    prepare_data.run(config)
    clock = StepClock.of_motion(config, config)
    config = replace(config, motion=replace(config.motion, loop=fit(clock, config.motion.loop, minutes * MOTION_SHARE)))
    del clock
    train_motion.run(config)
    plain = load(str(OVERLAYS / "plain_equal_latents.yaml"), f"run.name={config.run.name}_plain")
    prepare_data.run(plain)
    content = {
        "device": device_name(config),
        "torch": torch.__version__,
        "resolution": config.data.resolution,
        "num_frames": config.data.num_frames,
        "minutes": minutes,
        "motion_module": {"steps": config.motion.loop.steps, "log": validations(config, "train_motion")},
        "deco_vae": train(config, minutes),
        "plain_vae": train(plain, minutes),
        "git_commit": git_commit(),
    }
    write_json(ROOT / "docs" / "results" / "gpu_training.json", content)
    print(json.dumps(content, indent=1))


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
    return read_jsonl(Path(config.run.root) / config.run.name / stage / "metrics.jsonl")


def device_name(config: Experiment) -> str:
    device = choose_device(config.run.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    main(sys.argv[1:])
