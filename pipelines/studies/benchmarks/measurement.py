"""Speed and memory of one autoencoder in a process of its own: python -m pipelines.studies.benchmarks.measurement JOB

JOB is a `Job` as JSON; prints one JSON object. One process, one model: no model's peak memory hides another's.
"""

import json
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch

from pipelines.run.compilation import compile_blocks
from vae.blocks import ResidualBlock
from vae.interface import VideoAutoencoder
from vae.losses import pixel_l1
from vae.registry import MODELS

# Published autoencoders with diffusers' defaults, which are the published sizes; random weights.
PEERS = ("AutoencoderKLWan", "AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo")
KL_WEIGHT = 1e-7


@dataclass(frozen=True)
class Job:
    """What is measured, and how."""

    model: str  # name in vae/registry.py, or one of PEERS
    architecture: dict[str, Any]  # of a model of ours
    num_frames: int
    resolution: int
    device: str  # cpu or cuda
    threads: int  # 0 = torch's own choice
    warm_up: int  # passes before those that count
    repeats: int  # passes that count
    max_seconds: float  # no further pass after so many seconds; a first pass longer than that counts
    precision: str = "fp32"
    channels_last_3d: bool = False
    compile: bool = False
    training: bool = False  # forward and backward of one clip, instead of encode and decode
    gradient_checkpointing: bool = False


def build(model: str, architecture: dict[str, Any]) -> torch.nn.Module:
    """An autoencoder with random weights, in eval mode."""
    built = getattr(diffusers, model)() if model in PEERS else MODELS[model](architecture)
    return built.eval()


def encode(model: torch.nn.Module, video: torch.Tensor) -> Any:
    """video (b, 3, t, h, w) in [-1, 1] -> what `decode` takes: posterior means, no sampling."""
    if isinstance(model, VideoAutoencoder):
        return model.encode(video).latents
    return model.encode(video).latent_dist.mode()


def decode(model: torch.nn.Module, latents: Any) -> torch.Tensor:
    """What `encode` gave -> video (b, 3, t, h, w)."""
    return model.decode(latents) if isinstance(model, VideoAutoencoder) else model.decode(latents).sample


def num_latent_values(latents: Any) -> int:
    """How many numbers a clip is coded into: {part: (b, c, t, h, w)} or one (b, c, t, h, w)."""
    parts = latents.values() if isinstance(latents, dict) else [latents]
    return sum(part[0].numel() for part in parts)


def measure(job: Job) -> dict[str, Any]:
    """Seconds of every counted pass, and memory in 10^9 bytes. Random weights, one random clip.

    peak_gb: resident memory of the whole process, or allocated memory of the GPU; libraries_gb: its part before the
    model was built. cpu_share: processor time over seconds x threads, well below 1 where other programs ran beside it.
    ValueError when the job cannot be done here.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    libraries_gb = memory_gb("VmRSS", device)
    torch.manual_seed(0)
    model = build(job.model, job.architecture).to(device)
    video = torch.rand(1, 3, job.num_frames, job.resolution, job.resolution).to(device) * 2 - 1
    if job.channels_last_3d:
        for parameter in model.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        video = video.contiguous(memory_format=torch.channels_last_3d)
    if job.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if job.compile:
        compile_blocks(model, ResidualBlock)
    start, start_cpu = time.perf_counter(), time.process_time()
    seconds = _training_seconds(job, model, video) if job.training else _coding_seconds(job, model, video)
    share = (time.process_time() - start_cpu) / (time.perf_counter() - start) / torch.get_num_threads()
    memory = {"peak_gb": memory_gb("VmHWM", device), "libraries_gb": libraries_gb}
    return {**seconds, **memory, "cpu_share": round(share, 3)}


def _coding_seconds(job: Job, model: torch.nn.Module, video: torch.Tensor) -> dict[str, Any]:
    with torch.inference_mode(), autocast(job):
        encode_seconds, latents = time_passes(job, lambda: encode(model, video))
        decode_seconds, decoded = time_passes(job, lambda: decode(model, latents))
    assert decoded.shape == video.shape and decoded.isfinite().all(), "every model gives the clip back"
    return {"encode_seconds": encode_seconds, "decode_seconds": decode_seconds}


def _training_seconds(job: Job, model: torch.nn.Module, video: torch.Tensor) -> dict[str, Any]:
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(job):
            coded = model(video, sample=True)
            kl = sum(gaussian.kl().mean() for gaussian in coded.posterior.values())
            loss = pixel_l1(coded.reconstruction, video) + KL_WEIGHT * kl
        loss.backward()

    return {"training_seconds": time_passes(job, step)[0]}


class Timing(Protocol):
    """What the functions below read of a job, the autoencoders' or another."""

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def compile(self) -> bool: ...
    @property
    def warm_up(self) -> int: ...
    @property
    def repeats(self) -> int: ...
    @property
    def max_seconds(self) -> float: ...


def time_passes(job: Timing, function: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds of the passes that count, and the last result. The pass that compiles never counts."""
    seconds: list[float] = []
    result = function() if job.compile else None
    while len(seconds) < job.warm_up + job.repeats and sum(seconds) < job.max_seconds or not seconds:
        del result
        synchronise(job)
        start = time.perf_counter()
        result = function()
        synchronise(job)
        seconds.append(time.perf_counter() - start)
    return seconds[job.warm_up :] or seconds[-1:], result


def synchronise(job: Timing) -> None:
    """Wait until the device has done what it was given."""
    if job.device == "cuda":
        torch.cuda.synchronize()


def autocast(job: Timing) -> AbstractContextManager[Any]:
    """The precision of a job."""
    return torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bf16")


def memory_gb(which: str, device: torch.device) -> float:
    """VmRSS: memory now; VmHWM: its peak, of this program alone (ru_maxrss also knows the process that started it)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
    # The kernel brings the peak up to date later than what is resident now, which may be more.
    names = ("VmRSS", "VmHWM") if which == "VmHWM" else (which,)
    kilobytes = re.findall(rf"(?:{'|'.join(names)}):\s+(\d+) kB", status.read_text())
    return max(map(int, kilobytes)) * 1024 / 1e9 if kilobytes else float("nan")


def job_to_json(job: Any) -> str:
    """The command line argument of a program that measures, such as this one; job: a dataclass."""
    return json.dumps(asdict(job))


def end_with_parent() -> None:
    """End this process as soon as the other end of its standard input is closed, i.e. when its parent was killed."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    try:
        print(json.dumps(measure(Job(**json.loads(sys.argv[1])))))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
