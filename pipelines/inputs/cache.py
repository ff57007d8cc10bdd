"""The latent cache of a run: what it depends on, its clips in order, and opening it."""

from pipelines.data.clip_dataset import FixedClips, preprocessing
from pipelines.data.clip_index import ClipIndex
from pipelines.data.latent_cache import LatentCache
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.models import autoencoder_path
from pipelines.inputs.run_paths import run_path
from pipelines.run.hashes import hash_folder


def fixed_clips(config: Experiment, index: ClipIndex, split: str) -> FixedClips:
    """The clips of a split in the order of the cache; crops and mirror images are made of training clips only."""
    if split == "train":
        crops, mirror = config.cache.crops_per_clip, config.data.flip
        return FixedClips(index, config.data, split, config.cache.clips_per_video, crops, mirror)
    return FixedClips(index, config.data, split, config.cache.clips_per_video)


def provenance(config: Experiment, index: ClipIndex) -> dict[str, object]:
    """What a cache depends on: the hash of the autoencoder, of the index, and the preprocessing."""
    vae_path = autoencoder_path(config)
    options = {
        name: getattr(config.cache, name) for name in ("clips_per_video", "crops_per_clip", "precision", "storage")
    }
    made_by = {**preprocessing(config.data), **options, "flip": config.data.flip}
    return {"vae": hash_folder(vae_path), "index": index.fingerprint, "preprocessing": made_by}


def open_cache(config: Experiment, index: ClipIndex) -> LatentCache:
    """The latent cache of the run; ValueError when it was made from another autoencoder, data set or preprocessing."""
    cache = LatentCache(run_path(config) / "cache_latents" / "latents", verify=False)
    cache.check(**provenance(config, index))
    return cache
