"""Options of the benchmarks: the section `benchmark`, on top of those of an experiment."""

from dataclasses import dataclass, field

from latte.config import NAMED_SIZES
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.precision import PRECISIONS
from vae.choices import check_choices


@dataclass(frozen=True)
class BenchmarkSection:
    """Measuring speed and memory with random weights; overlays of the configuration and published models are rows."""

    models: tuple[str, ...] = (
        *("deco_vae", "deco_vae_paper", "deco_vae_repeat", "plain_vae"),
        *("AutoencoderKLWan", "AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo"),
    )  # rows of the table; besides these, the name of any file in configs/overlays
    num_frames: int = 17  # frames of the clip, 4n + 1
    resolution: int = 256  # height and width of the clip, a multiple of 16
    precision: str = "fp32"  # fp32 or bf16 (autocast), of every row
    compile: bool = False  # torch.compile of our models' blocks, in every row
    rounds: int = 3  # processes per row; the rows take turns
    warm_up: int = 1  # passes in each process before those that count
    repeats: int = 5  # passes in each process that count
    max_seconds: float = 20.0  # no further pass after so many seconds; a first pass longer than that counts
    options: tuple[str, ...] = (
        "bf16",
        "channels_last_3d",
        "compile",
        "training",
        "gradient_checkpointing",
    )  # measured too
    cache_clips: int = 8  # clips that are encoded (kind cache)
    cache_gb: float = 0.5  # 10^9 bytes of means in float32 that are read (kind cache)
    latte_models: tuple[str, ...] = (
        *("latte", "latte_full", "latte_keyframe_first", "latte_keyframe_first_full", "latte_modern"),
        *("diffusers_latte", "diffusers_latte_no_caption", "published_block"),
    )  # rows of kind latte, in fp32 and bf16, with benchmark.compile compiled too
    latte_size: str = "S/2"  # S, B, L or XL and the patch size (kind latte)
    latte_latents: tuple[int, ...] = (16, 5, 32, 32)  # channels, frames, height and width of latents (kind latte)
    latte_batch: int = 1  # clips per step (kind latte)

    def __post_init__(self) -> None:
        if self.num_frames % 4 != 1 or self.resolution % 16 or self.resolution < 16:
            raise ValueError(
                f"benchmark.num_frames is {self.num_frames} and benchmark.resolution {self.resolution}, but must be "
                "4n + 1 and a multiple of 16"
            )
        if len(self.latte_latents) != 4 or min(*self.latte_latents, self.latte_batch) < 1 or self.latte_latents[1] < 2:
            raise ValueError(
                f"benchmark.latte_latents is {list(self.latte_latents)} and latte_batch {self.latte_batch}, but must "
                "be channels, frames (2 or more), height and width, and 1 or more"
            )
        check_choices(self, "benchmark", precision=PRECISIONS, latte_size=NAMED_SIZES)
        if min(self.rounds, self.repeats) < 1 or self.warm_up < 0 or not self.models:
            raise ValueError("benchmark.rounds and repeats must be 1 or more, warm_up 0 or more, and models not empty")


@dataclass(frozen=True)
class Benchmark(Experiment):
    """An experiment whose models are measured."""

    benchmark: BenchmarkSection = field(default_factory=BenchmarkSection)
