"""Training steps of Latte on one GPU at the best batch, bf16 and compiled. Needs a GPU.

python -m pipelines.studies.gpu_latte [study.key=value ...]

Layouts `channel` and `keyframe_first`, factorised and full attention, latents of 16 x 5 x 32 x 32. The batch doubles
until memory is full or samples per second no longer grow by 2 %; of the last batch, the operations that take longest.
MFU (Model FLOPs Utilisation): three forward passes' floating-point operations over the GPU's peak.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from pipelines.run.ranks import choose_device
from pipelines.studies.benchmarks.latte_measurement import LatteJob, LatteTraining
from pipelines.studies.benchmarks.latte_speed import PEAK_FLOPS, PROGRAM, row_of
from pipelines.studies.benchmarks.vae_speed import machine, run_process
from pipelines.studies.result_rows import Rows, markdown_table
from pipelines.studies.study import Case, Measured, Study, StudySection, main

KINDS = ("latte", "latte_full", "latte_keyframe_first", "latte_keyframe_first_full")
SIZE, FIRST, LAST = "XL/2", 8, 1024
GROWTH, TOP = 1.02, 10
TINY_JOB = LatteJob("latte", "S/8", (4, 3, 16, 16), 1, "cpu", 1, 0, 1, 0, "bf16")


def cases(options: StudySection) -> list[Case]:
    """A case per layout and attention."""
    return [Case({"model": kind, "size": SIZE}) for kind in (KINDS[:1] if options.tiny else KINDS)]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Double the batch of every model until nothing is gained."""
    if choose_device("auto").type != "cuda" and not options.tiny:
        raise ValueError("gpu_latte needs a GPU: none is there, or it cannot be used")
    device = machine("cpu" if options.tiny else "cuda")["device"]
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in device), None)
    for case in waiting:
        job = LatteJob(case.arguments["model"], SIZE, (16, 5, 32, 32), FIRST, "cuda", 0, 3, 10, 20.0, "bf16", True)
        batches = double(TINY_JOB, 1, peak) if options.tiny else double(job, LAST, peak)
        measured = [entry["batch"] for entry in batches if "error" not in entry]
        if not measured:
            raise ValueError(f"{job.kind} cannot be measured: {batches[-1]['error']}")
        profiled = longest(replace(TINY_JOB if options.tiny else job, batch=measured[-1]))
        yield Measured(case, {"device": device, "batches": batches, "operations": profiled})


def double(job: LatteJob, last: int, peak: float | None) -> list[dict[str, Any]]:
    """What a model takes at its own batch, twice that, and so on, until nothing is gained or memory is full."""
    batches: list[dict[str, Any]] = []
    fastest = 0.0
    while job.batch <= last:
        answer = run_process(job, PROGRAM)
        if "error" in answer:
            return [*batches, {"batch": job.batch, "error": answer["error"]}]
        batches.append({**row_of(job, [answer], peak), "batch": job.batch})
        rate = batches[-1]["samples_per_second"]
        if rate < fastest * GROWTH:
            break
        fastest, job = max(rate, fastest), replace(job, batch=2 * job.batch)
    return batches


def longest(job: LatteJob) -> list[dict[str, Any]]:
    """The operations in which a training step spends most of its time, with their share and number."""
    training = LatteTraining(job)

    def step() -> None:
        training.update().read()
        training.state.average(1, updated=True)

    for _ in range(3):
        step()
    is_gpu = training.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as profiler:
        step()
    name = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, name))
    total = sum(getattr(row, name) for row in rows)
    return [
        {"operation": row.key[:80], "share": round(getattr(row, name) / total, 4), "count": row.count}
        for row in rows[:TOP]
    ]


def table(rows: Rows) -> str:
    """A line per model, at the batch with the most samples per second."""
    lines = []
    for row in rows:
        measured = [batch for batch in row.values["batches"] if "error" not in batch]
        best = max(measured, key=lambda batch: batch["samples_per_second"])
        mfu = f"{best['mfu']:.2f}" if "mfu" in best else "-"
        cells = [f"`{row.arguments['model']}`", row.values["device"], str(best["batch"])]
        cells += [f"{best['samples_per_second']:.1f}", f"{best['peak_gb']:.1f}", mfu]
        lines.append(([row], [*cells, row.values["operations"][0]["operation"]]))
    if not lines:
        return "Not measured yet: needs a GPU."
    return markdown_table(["model", "device", "batch", "samples/s", "peak GB", "MFU", "longest operation"], lines)


STUDY = Study(
    "gpu_latte",
    ("latte", "pipelines.run", "pipelines.studies.benchmarks", "pipelines.studies.gpu_latte"),
    cases,
    measure,
    {"models": table},
)

if __name__ == "__main__":
    main(STUDY)
