"""Options of cache_latents: the section `cache`."""

from dataclasses import dataclass


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
