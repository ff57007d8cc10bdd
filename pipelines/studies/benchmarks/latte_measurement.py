"""Speed and memory of one diffusion transformer in a process of its own:
python -m pipelines.studies.benchmarks.latte_measurement JOB

JOB is a `LatteJob` as JSON; prints one JSON object. The training step is that of the training loop, whichever the
model: forward, backward, clipping, fused AdamW, averaged weights, and the one read of the loss.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel
from torch import Tensor, nn

from latte.blocks import LatteBlock
from latte.config import LatteConfig, build_records
from latte.latte import Latte
from pipelines.run.compilation import compile_blocks
from pipelines.run.random_keys import Draws
from pipelines.run.task import LoopConfig
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from pipelines.studies.benchmarks.measurement import autocast, end_with_parent, memory_gb, time_passes
from pipelines.studies.benchmarks.published_latte import PublishedBlock, PublishedLatte

NUM_CLASSES = 101
# Our presets by what follows "latte_s2": options beside the size.
PRESETS: dict[str, dict[str, Any]] = {
    "": {"layout": "channel", "attention": "factorised"},
    "_full": {"layout": "channel", "attention": "full"},
    "_keyframe_first": {"layout": "keyframe_first", "attention": "factorised"},
    "_keyframe_first_full": {"layout": "keyframe_first", "attention": "full"},
    "_modern": {"layout": "keyframe_first", "mlp": "swiglu", "positions": "rope", "qk_norm": True},
}
PEERS = ("diffusers_latte", "diffusers_latte_no_caption", "published_block")
KINDS = (*(f"latte{preset}" for preset in PRESETS), *PEERS)


@dataclass(frozen=True)
class LatteJob:
    """What is measured, and how."""

    kind: str  # one of KINDS
    size: str  # as latte.size
    latents: tuple[int, int, int, int]  # channels, frames, height, width
    batch: int
    device: str  # cpu or cuda
    threads: int  # 0 = torch's own choice
    warm_up: int  # passes before those that count
    repeats: int  # passes that count
    max_seconds: float  # no further pass after so many seconds; a first pass longer than that counts
    precision: str = "fp32"
    compile: bool = False


class Predictor(nn.Module):
    """One model behind one signature: latents (b, c, t, h, w), timestep (b,), labels (b,) -> the shape of latents."""

    def __init__(self, job: LatteJob) -> None:
        super().__init__()
        self.is_ours = job.kind not in PEERS
        channels, frames, height, width = job.latents
        depth, model_width, heads, patch = LatteConfig(size=job.size).dimensions()
        if self.is_ours:
            preset = PRESETS[job.kind.removeprefix("latte")]
            shapes = {"keyframe": (channels, 1, height, width), "residual": (channels, frames - 1, height, width)}
            shapes = {"video": tuple(job.latents)} if preset["layout"] == "channel" else shapes
            parts = {
                part: {"shape": shape, "mean": [0.0] * channels, "std": [1.0] * channels}
                for part, shape in shapes.items()
            }
            classes = [f"class {number}" for number in range(NUM_CLASSES)]
            config = LatteConfig(size=job.size, **preset)
            self.model: nn.Module = Latte(**build_records(config, parts, classes))
        elif job.kind == "published_block":
            self.model = PublishedLatte(job.latents, depth, model_width, heads, patch, NUM_CLASSES)
        else:
            self.model = diffusers_latte(job.latents, depth, model_width, heads, patch)
            if job.kind.endswith("no_caption"):
                for block in self.model.transformer_blocks:
                    block.register_module("attn2", None)
            self.register_buffer("caption", torch.randn(1, 1, model_width))
        for parameter in self.parameters():  # nothing stays zero, so that nothing is skipped
            nn.init.normal_(parameter, std=0.02)

    def forward(self, latents: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        if self.is_ours:
            layout = self.model.layout
            frames = [shape[1] for shape in layout.parts.values()]
            parts = dict(zip(layout.parts, latents.split(frames, dim=2), strict=True))
            prediction = layout.unpack(self.model(layout.pack(parts), timestep, labels))
            return torch.cat([prediction[part] for part in layout.parts], dim=2)
        if isinstance(self.model, PublishedLatte):
            return self.model(latents, timestep, labels)
        caption = self.caption.expand(len(latents), -1, -1)
        return self.model(latents, timestep=timestep, encoder_hidden_states=caption, return_dict=False)[0]


def diffusers_latte(
    latents: tuple[int, int, int, int], depth: int, width: int, heads: int, patch: int
) -> LatteTransformer3DModel:
    """diffusers' Latte of equal width, depth and tokens: it counts pairs of blocks, and its class is a caption."""
    channels, frames, height, _ = latents
    return LatteTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        out_channels=channels,
        num_layers=depth // 2,
        cross_attention_dim=width,
        attention_bias=True,
        sample_size=height,
        patch_size=patch,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=width,
        video_length=frames,
    )


class SpeedTask:
    """Mean square error to noise, for the training loop's own step; no data, no pictures."""

    stage, ema_player, best_metric = "benchmark_latte", "latte", ("loss", "min")

    def __init__(self, predictor: Predictor) -> None:
        self.players: dict[str, nn.Module] = {"latte": predictor}

    def parameter_groups(self, player: str) -> list[dict]:
        """One group: all parameters at the same rate."""
        return [{"params": list(self.players[player].parameters()), "lr_scale": 1.0}]

    def loss(self, player: str, batch: dict, draws: Draws, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of the prediction."""
        prediction = self.players[player](batch["latents"], batch["timestep"], batch["labels"])
        return (prediction.float() - batch["target"]).square().mean(), {}


class LatteTraining:
    """One model with its optimiser, averages and a batch of noise: the training loop's own step, again and again."""

    def __init__(self, job: LatteJob) -> None:
        self.device = torch.device(job.device)
        torch.manual_seed(0)
        self.predictor = Predictor(job)
        self.loop = LoopConfig(steps=1, global_batch_size=job.batch, precision=job.precision)
        task, folder = SpeedTask(self.predictor), Path(tempfile.gettempdir())
        self.state = TrainingState(task, self.loop, folder, self.device)  # type: ignore[arg-type]
        if job.compile:
            for kind in (LatteBlock, PublishedBlock, *{type(block) for block in _diffusers_blocks(self.predictor)}):
                compile_blocks(self.predictor, kind)
        self.batch = make_batch(job, self.device)
        self.draws = Draws(0, SpeedTask.stage, 0, self.batch["index"])

    def update(self) -> Any:
        """Forward, backward, clipping and the optimiser's step; what it gives is read by `.read()`."""
        return take_step(self.state, accumulate_gradient(self.state, "latte", self.batch, self.draws, 0))

    def step(self) -> None:
        """An update, then the averaged weights."""
        self.update()
        self.state.average(1, updated=True)


def measure(job: LatteJob) -> dict[str, Any]:
    """Seconds of every counted pass, memory in 10^9 bytes: see measurement.measure. Random weights and latents."""
    if job.threads:
        torch.set_num_threads(job.threads)
    libraries_gb = memory_gb("VmRSS", torch.device(job.device))
    training = LatteTraining(job)
    batch = training.batch

    @torch.no_grad()
    def forward() -> None:
        with autocast(job):
            training.predictor(batch["latents"], batch["timestep"], batch["labels"])

    forward_seconds, _ = time_passes(job, forward)
    train_step_seconds, _ = time_passes(job, training.step)
    memory = {"peak_gb": memory_gb("VmHWM", training.device), "libraries_gb": libraries_gb}
    return {"forward_seconds": forward_seconds, "train_step_seconds": train_step_seconds, **memory}


def make_batch(job: LatteJob, device: torch.device) -> dict[str, Any]:
    """A batch of noise, on the device."""
    shape = (job.batch, *job.latents)
    return {
        "latents": torch.randn(shape, device=device),
        "target": torch.randn(shape, device=device),
        "timestep": torch.linspace(0, 999, job.batch + 2, device=device).narrow(0, 1, job.batch),
        "labels": torch.arange(job.batch, device=device) % NUM_CLASSES,
        "index": list(range(job.batch)),
    }


def _diffusers_blocks(predictor: Predictor) -> Iterator[nn.Module]:
    if isinstance(predictor.model, LatteTransformer3DModel):
        yield from predictor.model.transformer_blocks


if __name__ == "__main__":
    end_with_parent()
    try:
        given = json.loads(sys.argv[1])
        print(json.dumps(measure(LatteJob(**{**given, "latents": tuple(given["latents"])}))))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
