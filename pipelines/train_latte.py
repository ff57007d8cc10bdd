"""Train the diffusion transformer: python pipelines/train_latte.py [CONFIG.yaml ...] [key=value ...]

Latent cache -> Latte (EMA weights), with grids of samples during training.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from latte.blocks import LatteBlock
from latte.config import build_records
from latte.fine_tuning import take_fitting_weights
from latte.latte import Latte
from latte.official_checkpoint import load_official_latte
from latte.trainer import LatteTask
from pipelines.data.latent_cache import LatentCache
from pipelines.inputs.cache import open_cache
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import DATA_MAY_CHANGE, open_index
from pipelines.inputs.models import CHECKPOINT_SUFFIXES, load_latte, planned_latte, resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.parts.train_latte.previews import write_preview
from pipelines.run.compilation import compile_blocks
from pipelines.run.folder import StageFolder
from pipelines.run.hashes import hash_file, hash_folder
from pipelines.run.loop import train
from pipelines.run.random_keys import key
from pipelines.run.ranks import connect
from pipelines.run.stage import main, select
from pipelines.run.task import may_change

STAGE = "train_latte"
VALIDATION_BATCH = 32
# Options of the section that change what is drawn or scored on the way, not what is trained.
MAY_CHANGE = (
    "latte.validation_clips",
    "latte.preview_*",
    "latte.gradient_checkpointing",
    "latte.compile",
    "latte.shard_weights",
    "latte.loop.num_workers",  # no option any more: older runs recorded it, without effect
)


def run(config: Experiment) -> None:
    """Train, or go on training, the Latte of `config`."""
    index = open_index(config)
    cache = open_cache(config, index)
    inputs = {"latent cache": {"path": str(cache.folder), "hash": cache_hash(cache)}}
    task = build_task(config, cache)
    model = task.model
    if config.latte.init_from:
        inputs["initial weights"] = take_initial_weights(model, config.latte.init_from, run_path(config))
    if config.latte.compile:
        compile_blocks(model, LatteBlock)
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    settings, defaults = (select(one, ("data", "latte", "run")) for one in (config, Experiment()))
    may = (*may_change("latte.loop"), *DATA_MAY_CHANGE, *MAY_CHANGE)
    with folder.open(settings, inputs, may, defaults=defaults):
        blocks = LatteBlock if config.latte.shard_weights else None
        train(task, config.latte.loop, folder, config.run.seed, config.run.device, blocks)
        folder.finish()


def build_task(config: Experiment, cache: LatentCache) -> LatteTask:
    """What the training loop drives: a new Latte with the latents of `cache`."""
    ranks = connect(config.run.device)
    torch.manual_seed(key(config.run.seed, STAGE, "weights"))
    model = Latte(**build_records(config.latte, cache.parts, cache.classes))
    clips_seed, loop = key(config.run.seed, STAGE, "clips"), config.latte.loop
    return LatteTask(
        model,
        lambda first_step: cache.batches(
            *("train", clips_seed, first_step, loop.global_batch_size, ranks.process_index, ranks.num_processes),
            sample=config.latte.sample_posterior,
        ),
        lambda: validation_batches(cache, config.latte.validation_clips),
        lambda ema, path, step: write_preview(ema, config, path, step),
    )


def take_initial_weights(model: Latte, reference: str, run_folder: Path) -> dict[str, str]:
    """Fill `model` from a reference as for `resolve_model`, or from a checkpoint file of the published Latte; returns
    what that is, for the provenance. Says in one line what does not fit and stays as it is."""
    file = Path(reference)
    if file.is_file() or file.suffix in CHECKPOINT_SUFFIXES:
        load_official_latte(file, model)
        return {"path": str(file), "hash": hash_file(file)}
    path = resolve_model(reference, run_folder, STAGE)
    if left := take_fitting_weights(model, load_latte(path, torch.device("cpu")), path):
        print(f"{STAGE}: the weights of {path} fit in part, {'; '.join(left)}", file=sys.stderr)
    return {"path": str(path), "hash": hash_folder(path)}


def cache_hash(cache: LatentCache) -> str:
    """Identifies the content of a cache: autoencoder, data set and preprocessing."""
    return "-".join(str(value) for value in cache.provenance.values())


def validation_batches(cache: LatentCache, count: int) -> Iterator[dict]:
    """The same `count` held-out clips every time, spread over the split."""
    positions = cache.split("validation")
    if positions:
        chosen = torch.linspace(0, len(positions) - 1, min(count, len(positions))).round().long().unique().tolist()
        for start in range(0, len(chosen), VALIDATION_BATCH):
            clips = [positions[i] for i in chosen[start : start + VALIDATION_BATCH]]
            yield {"latents": cache.latents(clips), "label": cache.labels[clips]}


def describe(config: Experiment) -> str:
    """For run.dry_run: size, tokens and steps."""
    model, loop = planned_latte(config), config.latte.loop
    tokens = sum(s.frames * s.height * s.width // model.patch**2 for s in model.layout.streams)
    return (
        f"Latte {config.latte.size}: {model.num_parameters():,} parameters without the class embedding, "
        f"{tokens} tokens per clip, {loop.steps} steps of {loop.global_batch_size} clips"
    )


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "latte", "run"), describe)
