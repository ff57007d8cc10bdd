"""One experiment: the sections of a YAML, composed from the options that stand next to what they configure."""

from dataclasses import dataclass, field
from pathlib import Path

from latte.config import LatteConfig
from latte.sampler import SamplerConfig
from pipelines.data.data_config import DataConfig
from pipelines.metrics.fvd_protocols import EvaluateConfig
from pipelines.run.folder import RunConfig
from pipelines.run.loop import LoopConfig
from vae.adaptation import AdaptationConfig
from vae.keyframe_placement import GopConfig
from vae.motion_trainer import MotionLossConfig
from vae.objective import GanConfig, LossConfig
from vae.registry import AutoencoderConfig


@dataclass(frozen=True)
class MotionSection:
    """Self-supervised training of the motion module; its size stands in vae.deco_vae.motion_module."""

    init_from: str = ""  # run or model folder, or CompressAI ssf2020 file, to start from; empty = random weights
    losses: MotionLossConfig = field(default_factory=MotionLossConfig)  # what it is trained on
    loop: LoopConfig = field(default_factory=LoopConfig)  # how long and how it is trained
    validation_clips: int = 64  # held-out clips scored at each validation


@dataclass(frozen=True)
class VaeSection(AutoencoderConfig):
    """The autoencoder and its training."""

    motion_from: str = ""  # run or model folder, or CompressAI ssf2020 file; empty = this run's train_motion
    init_from: str = ""  # run or model folder whose autoencoder weights to start from; empty = random weights
    losses: LossConfig = field(default_factory=LossConfig)  # weights of the loss terms
    gan: GanConfig = field(default_factory=GanConfig)  # the adversarial part
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)  # the two training phases
    gradient_checkpointing: bool = False  # recompute activations in the backward pass to save memory
    compile: bool = False  # torch.compile of the residual blocks; needs a C++ compiler
    loop: LoopConfig = field(default_factory=LoopConfig)  # how long and how it is trained
    validation_clips: int = 64  # held-out clips scored at each validation


@dataclass(frozen=True)
class ReconstructSection:
    """Coding whole video files, and showing and scoring what comes back."""

    input: str = ""  # video file or folder of videos; empty = the held-out files of the run's data set
    vae: str = ""  # run or model folder of the autoencoder; empty = this run's cache.vae, or its train_vae
    resolution: int = 0  # short side that frames are resized to; 0 = the file's own size
    max_frames: int = 0  # frames read per file at most; 0 = all
    gop: GopConfig = field(default_factory=lambda: GopConfig(max_frames=17))  # where keyframes are placed
    chunk_frames: int = 0  # frames coded at once, a multiple of 4; 0 = up to 16, fewer where they are large
    tile_size: int = -1  # pixels: networks see tiles of this size; 0 = whole frames, -1 = 512 for large frames
    protocols: tuple[str, ...] = ("in_memory",)  # how pixels reach the scores: in_memory, leanvae, wfvae (by codecs)
    clip_frames: int = 16  # frames of the clips whose I3D features make rFVD
    clips_per_file: int = 2  # such clips per file at most, spread over it; 0 = no rFVD
    save: tuple[str, ...] = ("side_by_side", "reconstruction", "figure")  # what is written per file
    latent_map: bool = True  # draw PCA and t-SNE of the latents of the files
    compare_with: str = ""  # run or model folder of a second autoencoder, shown beside the first in the latent map
    exchange: tuple[str, ...] = ()  # two video files whose keyframe and motion are exchanged; empty = none
    exchange_frames: int = 33  # frames of the exchanged videos at most

    def __post_init__(self) -> None:
        if self.chunk_frames < 0 or self.chunk_frames % 4:
            raise ValueError(f"reconstruct.chunk_frames is {self.chunk_frames}, but must be a multiple of 4, or 0")
        if self.tile_size != -1 and (self.tile_size < 0 or self.tile_size % 64):
            raise ValueError(f"reconstruct.tile_size is {self.tile_size}, but must be a multiple of 64, 0 or -1")
        if len(self.exchange) not in (0, 2):
            raise ValueError(f"reconstruct.exchange names {len(self.exchange)} files, but must name two: [A,B]")
        for name in ("resolution", "max_frames", "clips_per_file"):
            if getattr(self, name) < 0:
                raise ValueError(f"reconstruct.{name} is {getattr(self, name)}, but must be 0 or more")


@dataclass(frozen=True)
class CacheSection:
    """Encoding the data set into latents."""

    vae: str = ""  # run or model folder of the autoencoder; empty = this run's train_vae
    clips_per_video: int = 1  # clips per file, with evenly spaced starts
    crops_per_clip: int = 1  # crops per training clip, evenly spaced along the longer side; 1 = the centre
    clips_per_shard: int = 256  # clips in one file of the cache
    precision: str = "fp32"  # fp32 or bf16 (autocast)
    storage: str = "moments_fp32"  # moments_fp32, or means_fp16: a quarter of the space, without the variances
    num_workers: int = 0  # processes that read clips ahead; 0 = none
    job: int = 0  # which of num_jobs independent processes this is, from 0 on
    num_jobs: int = 1  # processes that share the work, each started by itself, with its own number in cache.job

    def __post_init__(self) -> None:
        if self.storage not in ("moments_fp32", "means_fp16"):
            raise ValueError(f"cache.storage is {self.storage!r}, but must be moments_fp32 or means_fp16")
        for name in ("clips_per_video", "crops_per_clip", "clips_per_shard", "num_jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"cache.{name} is {getattr(self, name)}, but must be 1 or more")
        if not 0 <= self.job < self.num_jobs:
            raise ValueError(f"cache.job is {self.job}, but must be from 0 to cache.num_jobs - 1 = {self.num_jobs - 1}")
        if self.num_workers < 0:
            raise ValueError(f"cache.num_workers is {self.num_workers}, but must be 0 or more")


@dataclass(frozen=True)
class LatteSection(LatteConfig):
    """The diffusion transformer and its training."""

    init_from: str = ""  # run, model folder or checkpoint of the published Latte to start from; empty = random weights
    compile: bool = False  # torch.compile of the blocks; needs a C++ compiler
    shard_weights: bool = False  # split weights, averages and moments over the processes (FSDP2), to save GPU memory
    loop: LoopConfig = field(default_factory=LoopConfig)  # how long and how it is trained
    sample_posterior: bool = (
        False  # train on a new draw per clip and step, not on the mean; open-loop autoencoders only
    )
    validation_clips: int = 128  # held-out clips whose loss is measured at each validation
    preview_per_class: int = 2  # samples per class in the pictures during training
    preview_classes: int = 8  # classes in the pictures during training


@dataclass(frozen=True)
class SampleSection(SamplerConfig):
    """Generating videos."""

    vae: str = ""  # run or model folder of the autoencoder; empty = this run's cache.vae, or its train_vae
    latte: str = ""  # run or model folder of the Latte; empty = this run's train_latte
    weights: str = "last"  # last or best (lowest validation loss) averaged weights of Latte
    ema_length: float = (
        0.0  # weights averaged over this share of the training (see latte.loop.ema_snapshot_every); 0 = off
    )
    classes: tuple[str, ...] = ()  # class names or numbers; empty = all classes
    per_class: int = 8  # videos per class (videos in all where there are no classes)
    seed: int = 0  # seed of the first video; the others count up
    batch_size: int = 32  # videos sampled at once
    precision: str = "fp32"  # fp32 or bf16 (autocast)
    save: tuple[str, ...] = ("mp4", "lossless")  # what is written per video: mp4, lossless (uint8 in safetensors)
    fps: int = 8  # frames per second of the mp4 and GIF files
    guide: str = ""  # run or model folder of a weaker Latte to guide away from; empty = the model without a class
    first_frame: str = ""  # image or video whose first frame all begin with, or a folder of them (image-to-video)
    interpolate: tuple[int, ...] = ()  # two seeds: the videos of a class lie on the arc between them; empty = off
    preview_every: int = 0  # pictures of the first batch every so many steps, without decoding; 0 = off

    def __post_init__(self) -> None:
        if len(self.interpolate) not in (0, 2):
            raise ValueError(f"sample.interpolate holds {len(self.interpolate)} seeds, but must hold two: [1,2]")
        for name in ("per_class", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"sample.{name} is {getattr(self, name)}, but must be 1 or more")
        if self.preview_every < 0:
            raise ValueError(f"sample.preview_every is {self.preview_every}, but must be 0 or more")


@dataclass(frozen=True)
class ReportSection:
    """One page about many runs."""

    runs: tuple[str, ...] = ()  # names of runs, their folders, or folders of runs, for a leaderboard; empty = this run
    compare: str = ""  # a score, such as fvd16, that ranks these runs; refused where its protocols or data differ

    def __post_init__(self) -> None:
        if self.compare and not self.runs:
            raise ValueError(f"report.compare is {self.compare!r}, but there are no runs: name some in report.runs")


@dataclass(frozen=True)
class ExportSection:
    """Writing a pipeline of diffusers."""

    folder: str = ""  # where its two layouts, package and self_contained, are written; empty = this run's export folder


@dataclass(frozen=True)
class AblationRow:
    """One row of an ablation's table: the experiment with overlays and options of its own."""

    overlays: tuple[str, ...] = ()  # names of overlays (without .yaml), looked up in ablation.overlay_folders
    set: tuple[str, ...] = ()  # options on top of the overlays, such as vae.loop.lr=1e-3
    seeds: int = 0  # number of runs, with seeds run.seed, run.seed + 1, ...; 0 = ablation.seeds
    budget: str = "steps"  # steps: its own vae.loop.steps; time: as many steps as fit into the time of row `like`
    like: str = ""  # the row that gives the time of a row with budget time; empty = ablation.reference
    count_motion: bool = False  # budget time includes the training of the motion module, of both rows


@dataclass(frozen=True)
class AblationSection:
    """Training a list of rows under equal conditions, and the table of their scores."""

    rows: dict[str, AblationRow] = field(default_factory=dict)  # name of the row -> what is different in it
    only: tuple[str, ...] = ()  # names of the rows to run; empty = all
    reference: str = ""  # the row that all others are compared with; empty = the first
    seeds: int = 1  # runs of each row, with seeds run.seed, run.seed + 1, ...
    processes: int = 2  # runs trained side by side
    groups: tuple[str, ...] = ()  # first folders of the clips' paths that are scored apart; all others are "other"
    strides: tuple[int, ...] = ()  # frame strides at which held-out clips are scored; empty = data.frame_stride
    clips_per_video: int = 2  # clips scored per held-out file, with evenly spaced starts
    overlay_folders: tuple[str, ...] = ("configs/overlays",)  # where overlays lie, first match; from the repository
    timing_rounds: int = 8  # how often the step of every row is timed, in turns with the reference row's
    timing_steps: int = 2  # steps per round


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
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"benchmark.precision is {self.precision!r}, but must be fp32 or bf16")
        if min(self.rounds, self.repeats) < 1 or self.warm_up < 0 or not self.models:
            raise ValueError("benchmark.rounds and repeats must be 1 or more, warm_up 0 or more, and models not empty")


@dataclass(frozen=True)
class Experiment:
    """Everything a YAML can set."""

    data: DataConfig = field(default_factory=DataConfig)
    motion: MotionSection = field(default_factory=MotionSection)
    vae: VaeSection = field(default_factory=VaeSection)
    reconstruct: ReconstructSection = field(default_factory=ReconstructSection)
    cache: CacheSection = field(default_factory=CacheSection)
    latte: LatteSection = field(default_factory=LatteSection)
    sample: SampleSection = field(default_factory=SampleSection)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportSection = field(default_factory=ReportSection)
    export: ExportSection = field(default_factory=ExportSection)
    ablation: AblationSection = field(default_factory=AblationSection)
    benchmark: BenchmarkSection = field(default_factory=BenchmarkSection)
    run: RunConfig = field(default_factory=RunConfig)


def training_stages(config: Experiment) -> tuple[str, ...]:
    """The training stages that this run needs: what is taken from elsewhere is not trained here."""
    vae, own = config.vae, (Path(config.run.root) / config.run.name).resolve()
    is_given = {
        name: bool(reference) and not Path(reference).resolve().is_relative_to(own)
        for name, reference in (("vae", config.cache.vae), ("latte", config.sample.latte))
    }
    needs_motion = vae.has_motion_module and not (vae.motion_from or vae.init_from)
    needed = {
        "train_motion": needs_motion and not is_given["vae"],
        "train_vae": not is_given["vae"],
        "train_latte": not is_given["latte"],
    }
    return tuple(stage for stage, is_needed in needed.items() if is_needed)
