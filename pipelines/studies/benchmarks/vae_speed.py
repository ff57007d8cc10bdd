"""Speed, arithmetic and memory of video autoencoders at one clip size: ours beside diffusers' (`benchmark.py vae`).

Every model is measured in processes of its own, one at a time, in rounds in which the models take turns. The result,
runs/<run>/vae.json, is written after every process; the same command goes on with what is missing.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipelines.run.config import load_config
from pipelines.run.folder import StageFolder, git_commit, write_json
from pipelines.run.ranks import choose_device
from pipelines.run.stage import select
from pipelines.studies.benchmarks.measurement import PEERS, Job, build, decode, encode, job_to_json, num_latent_values
from pipelines.studies.benchmarks.options import Benchmark
from pipelines.studies.benchmarks.speed_tables import BASELINES, describe_tables, option_rows, rows

KIND = "vae"
REPOSITORY = Path(__file__).resolve().parents[3]
OVERLAYS = REPOSITORY / "configs" / "overlays"
# Row -> overlay of the configuration whose model it is; other rows are named like their overlay.
PRESETS = {"deco_vae": "", "deco_vae_paper": "paper", "deco_vae_repeat": "repeat"}
# What the table of options measures: option -> rows and what changes in their jobs.
OPTIONS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "bf16": (("deco_vae", {"precision": "bf16"}),),
    "channels_last_3d": (
        ("deco_vae", {"channels_last_3d": True}),
        ("AutoencoderKLWan", {"channels_last_3d": True}),
    ),
    "compile": (("deco_vae", {"compile": True}),),
    "training": (("deco_vae", {"training": True}),),
    "gradient_checkpointing": (("deco_vae", {"training": True, "gradient_checkpointing": True}),),
}


def run(config: Benchmark) -> None:
    """Measure what is missing, write runs/<run>/vae.json and print its tables."""
    section, device = config.benchmark, choose_device(config.run.device).type
    jobs = plan(config, device)
    settings = select(config, ("benchmark",)) | {"machine": machine(device)}
    folder = StageFolder(config.run.root, config.run.name, KIND)
    with folder.open(settings, may_change=("benchmark.models", "benchmark.options", "benchmark.rounds")):
        sizes = {name: size(jobs[name]) for name in section.models}
        errors: dict[str, str] = {}
        for number in range(section.rounds):
            for label, job in jobs.items():
                if label in errors or len(measured(folder, job)) > number:
                    continue
                print(f"round {number + 1} of {section.rounds}: {label}", file=sys.stderr, flush=True)
                result = run_process(job)
                if "error" in result:
                    errors[label] = result["error"]
                else:
                    folder.log({"label": label, "job": asdict(job), "git_commit": git_commit(), **result})
                write_tables(folder, config, sizes, jobs, errors)
        content = write_tables(folder, config, sizes, jobs, errors)
        print(describe_tables(content))
        if not errors:
            folder.finish({"rows": [row["name"] for row in content["rows"]]})


def measured(folder: StageFolder, job: Any) -> list[dict[str, Any]]:
    """What the processes of one job answered so far, round by round."""
    wanted = json.loads(job_to_json(job))
    return [line for line in folder.read_log() if line["job"] == wanted]


def write_tables(
    folder: StageFolder, config: Benchmark, sizes: dict[str, dict], jobs: dict[str, Job], errors: dict[str, str]
) -> dict[str, Any]:
    """Write runs/<run>/vae.json from what is measured so far, and return its content."""
    results = {label: found for label, job in jobs.items() if (found := measured(folder, job))}
    section, device = config.benchmark, next(iter(jobs.values())).device
    content = {
        "rows": rows(section.models, sizes, results, errors),
        "options": option_rows([label for label in jobs if label not in section.models], results, errors),
        "clip": {"num_frames": section.num_frames, "height": section.resolution, "width": section.resolution},
        "settings": {"precision": section.precision, "compile": section.compile},
        "machine": machine(device),
        "git_commits": sorted({line["git_commit"] for found in results.values() for line in found}),
    }
    write_json(folder.path.with_suffix(".json"), content)
    return content


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on besides the options: processor, threads, libraries."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),  # run.threads, or torch's own choice
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
    }


def plan(config: Benchmark, device: str) -> dict[str, Job]:
    """Everything to measure, by label: the rows of the main table, then the options ("deco_vae bf16").

    Raises ValueError for a model or an option that does not exist.
    """
    section = config.benchmark
    jobs = {
        name: Job(
            *model_of(config, name),
            section.num_frames,
            section.resolution,
            device,
            config.run.threads,
            section.warm_up,
            section.repeats,
            section.max_seconds,
            section.precision,
            compile=section.compile and name not in PEERS,
        )
        for name in section.models
    }
    if unknown := set(section.options) - set(OPTIONS):
        raise ValueError(f"benchmark.options names {', '.join(sorted(unknown))}: choose of {', '.join(OPTIONS)}")
    wanted = {*section.options, *(BASELINES[option] for option in section.options if option in BASELINES)}
    return jobs | {
        f"{name} {option}": replace(jobs[name], **changes)
        for option, changed in OPTIONS.items()
        for name, changes in changed
        if option in wanted and name in jobs
    }


def model_of(config: Benchmark, name: str) -> tuple[str, dict[str, Any]]:
    """Class and architecture of a row: a peer, the configured DeCo-VAE, or what an overlay makes of it."""
    if name in PEERS:
        return name, {}
    overlay = OVERLAYS / f"{PRESETS.get(name, name)}.yaml"
    if name not in PRESETS and not overlay.is_file():
        known = (*PRESETS, *(path.stem for path in sorted(OVERLAYS.glob("*.yaml"))), *PEERS)
        raise ValueError(f"benchmark.models names {name!r}: choose of {', '.join(known)}")
    base = replace(config, vae=replace(config.vae, name="deco_vae"))
    changed = load_config(Benchmark, [str(overlay)], overlay, base) if PRESETS.get(name, name) else base
    return changed.vae.name, asdict(getattr(changed.vae, changed.vae.name))


def size(job: Job) -> dict[str, Any]:
    """Parameters, latent values and arithmetic of one clip, without running it.

    GFLOPs: 2 per multiply-add of convolutions (grouped ones by their groups) and matrix products, attention included,
    from the shapes alone. The sampling of the warp, norms and activations are not counted.
    """
    with FakeTensorMode(), torch.no_grad():  # tensors with shapes and no memory
        model = build(job.model, job.architecture)
        video = torch.empty(1, 3, job.num_frames, job.resolution, job.resolution)
        with FlopCounterMode(display=False) as encoding:
            latents = encode(model, video)
        with FlopCounterMode(display=False) as decoding:
            decode(model, latents)
    flops = [counter.get_total_flops() / 1e9 for counter in (encoding, decoding)]
    return {
        "gflops": round(sum(flops), 6),
        "encode_gflops": round(flops[0], 6),
        "decode_gflops": round(flops[1], 6),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latent_values": num_latent_values(latents),
    }


def run_process(job: Any, program: str = "pipelines.studies.benchmarks.measurement") -> dict[str, Any]:
    """What `program`, a process of its own, answers to one job; {"error": ...} when it fails or is killed."""
    search = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", program, job_to_json(job)]
    environment = os.environ | {"PYTHONPATH": search}
    with tempfile.TemporaryFile("w+") as messages:
        # Its standard input stays open as long as this process lives: that is how it notices a kill.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True, env=environment
        ) as process:
            answer = process.stdout.read()
            code = process.wait()
        messages.seek(0)
        last_words = [line for line in messages.read().splitlines() if line[:1].strip()]
    if code == 0:
        return json.loads(answer.splitlines()[-1])
    if code < 0:
        return {"error": f"the process was ended by signal {-code} (9: out of memory, as a rule)"}
    return {"error": last_words[-1] if last_words else f"the process ended with {code}"}


def describe(config: Benchmark) -> str:
    """For run.dry_run: the rows with their sizes, and where the result goes."""
    jobs = plan(config, choose_device(config.run.device).type)
    lines = [f"{name}: {size(jobs[name])}" for name in config.benchmark.models]
    lines += [label for label in jobs if label not in config.benchmark.models]
    return "\n".join([*lines, f"result: {Path(config.run.root) / config.run.name / KIND}.json"])
