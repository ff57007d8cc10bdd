"""Speed and memory of diffusion transformers at one shape of latents (`benchmark.py latte`): our presets beside
diffusers' LatteTransformer3DModel and the published block, at equal width, depth and tokens.

Every model is measured in processes of its own, one at a time, in rounds in which the models take turns; of all passes
the fastest counts, since other programs only ever slow a pass down. The result, runs/<run>/latte.json, is written after
every process; the same command goes on with what is missing.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipelines.run.folder import StageFolder, git_commit, write_json
from pipelines.run.ranks import choose_device
from pipelines.run.stage import select
from pipelines.studies.benchmarks.latte_measurement import KINDS, PRESETS, LatteJob, Predictor, make_batch
from pipelines.studies.benchmarks.options import Benchmark
from pipelines.studies.benchmarks.speed_tables import aligned
from pipelines.studies.benchmarks.vae_speed import machine, measured, run_process

KIND = "latte"
PROGRAM = "pipelines.studies.benchmarks.latte_measurement"
REFERENCE, BARE = "diffusers_latte", "diffusers_latte_no_caption"
TRAINING_FLOPS = 3  # of a forward pass: once more for the gradient of every input and of every weight
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bf16, by the data sheets
COLUMNS = {
    "name": "name", "precision": "dtype", "compiled": "compiled", "forward s": "forward_seconds",
    "step s": "train_step_seconds", "/ diffusers": "time_to_diffusers", "samples/s": "samples_per_second",
    "peak GB": "peak_gb", "GFLOP": "gflops", "MFU": "mfu", "parameters": "parameters",
    "cross-attention": "cross_attention_share",
}  # fmt: skip


def run(config: Benchmark) -> None:
    """Measure what is missing, write runs/<run>/latte.json and print its table."""
    device = choose_device(config.run.device).type
    jobs = plan(config, device)
    settings = select(config, ("benchmark",)) | {"machine": machine(device)}
    folder = StageFolder(config.run.root, config.run.name, KIND)
    may_change = ("benchmark.latte_models", "benchmark.compile", "benchmark.rounds")
    with folder.open(settings, may_change=may_change):
        errors: dict[LatteJob, str] = {}
        for number in range(config.benchmark.rounds):
            for job in jobs:
                if job in errors or len(measured(folder, job)) > number:
                    continue
                print(f"round {number + 1} of {config.benchmark.rounds}: {label(job)}", file=sys.stderr, flush=True)
                result = run_process(job, PROGRAM)
                if "error" in result:
                    errors[job] = result["error"]
                else:
                    folder.log({"label": label(job), "job": asdict(job), "git_commit": git_commit(), **result})
                write_rows(folder, config, jobs, errors)
        content = write_rows(folder, config, jobs, errors)
        print("\n".join(aligned(COLUMNS, content["rows"])))
        print("\n".join(f"{label(job)}: {error}" for job, error in errors.items()), end="")
        if not errors:
            folder.finish({"rows": [label(job) for job in jobs]})


def plan(config: Benchmark, device: str) -> list[LatteJob]:
    """Every model in bf16 and fp32, with `benchmark.compile` compiled too; ValueError for one that does not exist."""
    section = config.benchmark
    if unknown := [kind for kind in section.latte_models if kind not in KINDS]:
        raise ValueError(f"benchmark.latte_models names {', '.join(unknown)}: choose of {', '.join(KINDS)}")
    channels, frames, height, width = section.latte_latents
    return [
        LatteJob(
            kind,
            section.latte_size,
            (channels, frames, height, width),
            section.latte_batch,
            device,
            config.run.threads,
            section.warm_up,
            section.repeats,
            section.max_seconds,
            precision,
            is_compiled,
        )
        for is_compiled in ((False, True) if section.compile else (False,))
        for precision in ("bf16", "fp32")
        for kind in section.latte_models
    ]


def name(job: LatteJob) -> str:
    """The row's name: "latte_s2_full", "diffusers_latte_s2_no_caption"."""
    size = job.size.lower().replace("/", "")
    for suffix in sorted((*PRESETS, "_no_caption"), key=len, reverse=True):
        if job.kind.endswith(suffix):
            return f"{job.kind.removesuffix(suffix)}_{size}{suffix}"
    raise AssertionError("the empty suffix ends every kind")


def label(job: LatteJob) -> str:
    """A row in words."""
    return " ".join([name(job), job.precision, *(["compiled"] if job.compile else [])])


def write_rows(
    folder: StageFolder, config: Benchmark, jobs: Sequence[LatteJob], errors: Mapping[LatteJob, str]
) -> dict[str, Any]:
    """Write runs/<run>/latte.json from what is measured so far, and return its content."""
    results = {job: found for job in jobs if (found := measured(folder, job))}
    facts = machine(jobs[0].device)
    content = {
        "rows": rows(results, facts["device"]),
        "errors": {label(job): error for job, error in errors.items()},
        "latents": list(config.benchmark.latte_latents),
        "batch": config.benchmark.latte_batch,
        "machine": facts,
        "git_commits": sorted({line["git_commit"] for found in results.values() for line in found}),
    }
    write_json(folder.path.with_suffix(".json"), content)
    return content


def rows(results: Mapping[LatteJob, Sequence[Mapping[str, Any]]], device: str) -> list[dict[str, Any]]:
    """One row per job, from what its processes answered. Seconds are those of the fastest pass.

    time_to_diffusers: the training step over that of diffusers' model in the same precision; cross_attention_share: the
    part of diffusers' step that goes away with the attention to its caption; mfu: model FLOPs of a training step per
    second, three times those of a forward pass, over the peak of the GPU in bf16.
    """
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in device), None)
    table = [row_of(job, answers, peak) for job, answers in results.items()]
    steps = {(job.kind, job.precision, job.compile): row for job, row in zip(results, table, strict=True)}
    for job, row in zip(results, table, strict=True):
        reference, bare = (steps.get((kind, job.precision, job.compile)) for kind in (REFERENCE, BARE))
        if reference:
            row["time_to_diffusers"] = round(row["train_step_seconds"] / reference["train_step_seconds"], 4)
        if job.kind == REFERENCE and bare:
            row["cross_attention_share"] = round(1 - bare["train_step_seconds"] / row["train_step_seconds"], 4)
    return table


def row_of(job: LatteJob, answers: Sequence[Mapping[str, Any]], peak: float | None) -> dict[str, Any]:
    """The row of one job by itself; see `rows`."""
    forward, step = (
        min(second for answer in answers for second in answer[kind])
        for kind in ("forward_seconds", "train_step_seconds")
    )
    arithmetic = size(job)
    row = {
        "name": name(job),
        "dtype": job.precision,
        "compiled": job.compile,
        "forward_seconds": round(forward, 5),
        "train_step_seconds": round(step, 5),
        "median_step_seconds": round(median(s for answer in answers for s in answer["train_step_seconds"]), 5),
        "samples_per_second": round(job.batch / step, 4),
        "peak_gb": round(max(answer["peak_gb"] for answer in answers), 3),
        "libraries_gb": round(max(answer["libraries_gb"] for answer in answers), 3),
        "rounds": len(answers),
        **arithmetic,
    }
    if peak and job.precision == "bf16":
        row["mfu"] = round(TRAINING_FLOPS * arithmetic["gflops"] * 1e9 / step / peak, 4)
    return row


def size(job: LatteJob) -> dict[str, Any]:
    """Parameters, and arithmetic of a forward pass of the batch: 2 per multiply-add of matrix products, from shapes."""
    with FakeTensorMode(), torch.no_grad():  # tensors with shapes and no memory
        predictor, batch = Predictor(job), make_batch(job, torch.device("cpu"))
        with FlopCounterMode(display=False) as counter:
            predictor(batch["latents"], batch["timestep"], batch["labels"])
    return {
        "parameters": sum(parameter.numel() for parameter in predictor.parameters()),
        "gflops": round(counter.get_total_flops() / 1e9, 4),
    }


def describe(config: Benchmark) -> str:
    """For run.dry_run: the rows with their sizes, and where the result goes."""
    jobs = plan(config, choose_device(config.run.device).type)
    result = f"result: {Path(config.run.root) / config.run.name / KIND}.json"
    return "\n".join([*(f"{label(job)}: {size(job)}" for job in jobs), result])
