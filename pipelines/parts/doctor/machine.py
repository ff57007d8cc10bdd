"""What can be known only with working imports: GPUs, reading and writing video, what a configuration needs.

`python -m pipelines.parts.doctor.machine [CONFIG.yaml ...] [key=value ...]` prints one JSON object; doctor.py runs it
in a process of its own.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipelines.data import frame_reader
from pipelines.data.video_file import read_video, write_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import planned_latte
from pipelines.inputs.training_stages import training_stages
from pipelines.parts.doctor.weights import weights_wanted
from pipelines.run.config import load_config
from pipelines.run.stage import DEFAULT_CONFIG
from pipelines.run.task import LoopConfig
from pipelines.run.training_state import bytes_on_disk
from vae.motion_module import MotionModule
from vae.registry import build_autoencoder

NUM_FRAMES = 9


def gpus() -> list[str]:
    """Name and memory of every GPU that really computes something. Raises RuntimeError where one does not."""
    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        total = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16).matmul(
            torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16)
        )
        assert float(total[0, 0]) == 64, f"GPU {number} multiplies two matrices of ones to {float(total[0, 0])}"
        found.append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return found


def video() -> list[str]:
    """Writes a tiny video by FFmpeg, reads it back with every reader there is; returns the readers' names."""
    readers = ["av"] if frame_reader.decord is None else ["av", "decord"]
    frames = torch.arange(NUM_FRAMES, dtype=torch.uint8).mul(20).reshape(-1, 1, 1, 1).expand(-1, 32, 48, 3)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test.mp4"
        write_video(file, frames, 8)
        for reader in readers:
            error = (read_video(file, reader=reader).int() - frames.int()).abs().max()
            assert error <= 4, f"a grey video comes back from {reader} with an error of {error} levels"
    return readers


def needs(config: Experiment) -> dict[str, Any]:
    """What training with `config` needs: folders, weights, and room on the disk in bytes."""
    stages = training_stages(config)
    with torch.device("meta"):
        vae = build_autoencoder(config.vae)
        models: dict[str, tuple[torch.nn.Module, LoopConfig]] = {
            "train_motion": (MotionModule(config.vae.deco_vae.motion_module.__dict__), config.motion.loop),
            "train_vae": (vae, config.vae.loop),
            "train_latte": (planned_latte(config), config.latte.loop),
        }
    sizes = {stage: sum(p.numel() for p in model.parameters()) for stage, (model, _) in models.items()}
    compiled = [name for name in ("vae", "latte") if getattr(config, name).compile]
    return {
        "root": config.run.root,
        "name": config.run.name,
        "device": config.run.device,
        "data": config.data.root,
        "compiled": compiled,
        "num_workers": max(config.motion.loop.num_workers, config.vae.loop.num_workers),
        "disk_bytes": sum(bytes_on_disk(sizes[stage], models[stage][1]) for stage in stages),
        "weights": weights_wanted(config, "train_vae" in stages),
    }


def main() -> None:
    """Print {"gpus", "cuda", "video", "needs"}, where what failed is {"error": reason}."""
    checks: dict[str, Callable[[], Any]] = {
        "gpus": gpus,
        "video": video,
        "needs": lambda: needs(load_config(Experiment, sys.argv[1:], DEFAULT_CONFIG)),
    }
    answers: dict[str, Any] = {"cuda": torch.version.cuda}
    for name, check in checks.items():
        try:
            answers[name] = check()
        except Exception as error:  # whatever it is, it is what the doctor is to report
            answers[name] = {"error": " ".join(f"{error}".split()) or type(error).__name__}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
