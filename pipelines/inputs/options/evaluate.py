"""Options of evaluate: the section `evaluate`."""

from dataclasses import dataclass

from pipelines.metrics.fvd_protocols import find_protocol
from pipelines.metrics.i3d_weights import PRECISIONS
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES

CHOICES = {"i3d_precision": PRECISIONS, "lpips_network": tuple(LPIPS_BACKBONES)}


@dataclass(frozen=True)
class EvaluateSection:
    """How reconstructions and generated videos are scored."""

    samples: str = ""  # folder of videos, of a set of samples, or of an exported pipeline; empty = this run's samples
    vae: str = ""  # run, model folder or diffusers video autoencoder whose reconstruction is scored; empty = this run's
    protocol: str = "fvd16-strict"  # fvd16-strict | fvd16-stylegan-v | fvd16-latte | fvd-videogpt
    num_videos: int = 0  # clips of either side for FVD; 0 = what the protocol asks for, -1 = that or all there are
    num_sets: int = 0  # sets of generated clips for FVD; 0 = what the protocol asks for
    i3d_precision: str = "fp32"  # fp32 | bf16 (about twice as fast on CPU, not for published numbers)
    i3d_batch_size: int = 4  # clips per forward pass of I3D
    lpips_network: str = "alex"  # alex (video VAE papers) | vgg (VidTok); used when its file is in weights.folder
    frames_per_video: int = 4  # frames for FID and inception score, where Inception is in weights.folder; 0 = neither
    classifier_seeds: int = 3  # classifiers trained for class accuracy, seeds 0, 1, ...; 0 = no class accuracy
    classifier_steps: int = 250  # training steps of each classifier
    classifier_clips: int = 512  # clips of either split that the classifiers see at most, spread over the files
    judged_videos: int = (
        128  # samples that two-sample accuracy and fidelity see at most, beside twice as many real clips
    )
    two_sample_seeds: int = 3  # networks trained for two-sample accuracy, seeds 0, 1, ...; 0 = no such accuracy
    two_sample_steps: int = 250  # training steps of each
    proxy_clips: int = 512  # samples, and held-out clips, behind the proxy_frechet distances at most; 0 = none
    reconstruction_clips: int = 256  # held-out clips whose reconstruction is scored at most
    rfvd_clips: int = 64  # of these, the clips whose I3D features are compared too (rfvd) where I3D is there; 0 = none

    def __post_init__(self) -> None:
        find_protocol(self.protocol)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"evaluate.{name} is one of {', '.join(known)}, got {getattr(self, name)!r}")
        least = {"num_videos": -1, "num_sets": 0, "rfvd_clips": 0, "frames_per_video": 0, "i3d_batch_size": 1}
        least |= {"judged_videos": 0, "two_sample_seeds": 0, "two_sample_steps": 1}
        least |= {"classifier_seeds": 0, "proxy_clips": 0, "classifier_clips": 1, "reconstruction_clips": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"evaluate.{name} is {getattr(self, name)}, but must be {smallest} or more")
        if self.num_videos == 1:
            raise ValueError("evaluate.num_videos is 1, but a distance between sets needs at least 2 videos in each")
