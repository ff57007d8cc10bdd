"""Training steps of Latte on one GPU at the best batch, bf16 and compiled: docs/results/gpu_latte.json.

python pipelines/studies/gpu_latte.py [size=XL/2] [first=8] [last=1024] [device=cuda]

Layouts `channel` and `keyframe_first`, factorised and full attention, latents of 16 x 5 x 32 x 32. The batch doubles
from `first` until memory is full or samples per second no longer grow by 2 %. Of the best of all, the operations that
take longest. MFU (Model FLOPs Utilisation): three forward passes' floating-point operations over the GPU's peak.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from latte.blocks import LatteBlock
from pipelines.run.compilation import compile_blocks
from pipelines.run.folder import git_commit, write_json
from pipelines.run.random_keys import Draws
from pipelines.run.task import LoopConfig
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from pipelines.studies.benchmarks.latte_measurement import LatteJob, Predictor, SpeedTask, make_batch
from pipelines.studies.benchmarks.latte_speed import PEAK_FLOPS, PROGRAM, row_of
from pipelines.studies.benchmarks.vae_speed import machine, run_process

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "gpu_latte.json"
KINDS = ("latte", "latte_full", "latte_keyframe_first", "latte_keyframe_first_full")
GROWTH, TOP = 1.02, 10


def main(options: dict[str, str]) -> None:
    """Measure and write after every row."""
    device = options.get("device", "cuda")
    facts = machine(device)
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in facts["device"]), None)
    content: dict[str, Any] = {"rows": [], "machine": facts, "git_commit": git_commit()}
    best: tuple[float, LatteJob] | None = None
    for kind in KINDS:
        job = LatteJob(
            kind,
            options.get("size", "XL/2"),
            (16, 5, 32, 32),
            int(options.get("first", 8)),
            device,
            threads=0,
            warm_up=3,
            repeats=10,
            max_seconds=20.0,
            precision="bf16",
            compile=True,
        )
        fastest = 0.0
        while job.batch <= int(options.get("last", 1024)):
            answer = run_process(job, PROGRAM)
            if "error" in answer:
                content["rows"].append({"name": kind, "batch": job.batch, "error": answer["error"]})
                break
            row = {**row_of(job, [answer], peak), "batch": job.batch}
            content["rows"].append(row)
            print(json.dumps(row), flush=True)
            write_json(RESULTS, content)
            rate = row["samples_per_second"]
            if best is None or rate > best[0]:
                best = rate, job
            if rate < fastest * GROWTH:
                break
            fastest, job = max(rate, fastest), replace(job, batch=2 * job.batch)
    assert best is not None, "no row was measured: see the errors"
    content["profile"] = {"of": best[1].kind, "batch": best[1].batch, "operations": longest(best[1])}
    write_json(RESULTS, content)
    print(json.dumps(content["profile"], indent=2))


def longest(job: LatteJob) -> list[dict[str, Any]]:
    """The operations in which a training step spends most of its time, with their share and number."""
    device = torch.device(job.device)
    torch.manual_seed(0)
    loop = LoopConfig(steps=1, global_batch_size=job.batch, precision="bf16")
    state = TrainingState(SpeedTask(Predictor(job)), loop, RESULTS.parent, device)  # type: ignore[arg-type]
    compile_blocks(state.model, LatteBlock)
    batch = make_batch(job, device)

    def step() -> None:
        draws = Draws(0, SpeedTask.stage, 0, batch["index"])
        take_step(state, accumulate_gradient(state, "latte", batch, draws, 0)).read()
        state.average(1, updated=True)

    for _ in range(3):
        step()
    is_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as profiler:
        step()
    name = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, name))
    total = sum(getattr(row, name) for row in rows)
    return [
        {"operation": row.key[:80], "share": round(getattr(row, name) / total, 4), "count": row.count}
        for row in rows[:TOP]
    ]


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
