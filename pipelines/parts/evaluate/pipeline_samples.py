"""Videos of an exported diffusers pipeline, sampled for an evaluation and kept as a set of samples: it can go on."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import to_uint8
from pipelines.inputs.deco_latte import DecoLattePipeline
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.samples import sample_file
from pipelines.metrics.fvd_protocols import class_quotas, find_protocol
from pipelines.parts.evaluate.generation import videos_wanted
from pipelines.parts.evaluate.real_clips import RealFiles
from pipelines.run.file_names import file_name
from pipelines.run.folder import StageFolder, write_json
from pipelines.run.hashes import digest, hash_folder
from pipelines.run.live_line import told
from pipelines.run.random_keys import key
from pipelines.run.ranks import connect, wait
from pipelines.run.stage import select


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline of diffusers."""
    return (folder / "model_index.json").is_file()


def sample_pipeline(folder: Path, config: Experiment, index: ClipIndex) -> Path:
    """The folder of the samples, lossless, as many and of the classes that the protocol asks for.

    Each depends on its class and seed only. ValueError for a pipeline that export.py did not write.
    """
    check_class(folder)
    ranks = connect(config.run.device)
    plan = plan_videos(config, index)
    content = {"pipeline": {"path": str(folder), "hash": hash_folder(folder)}}
    name = f"samples-of-{folder.resolve().name}-{digest(content['pipeline']['hash'], plan)[:8]}"
    target = StageFolder(config.run.root, config.run.name, f"evaluate/{name}")
    with target.open(select(config, ("run",)), content, ("*",)):
        wait()
        if target.is_main:
            write_json(target.path / "samples.json", plan)
        (target.path / "lossless").mkdir(exist_ok=True)
        own = plan[ranks.process_index :: ranks.num_processes]
        missing = [entry for entry in own if not sample_file(target.path, entry, "lossless").exists()]
        if missing:
            generate(folder, missing, target.path, config, ranks.device)
        wait()
        target.finish({"videos": len(plan)})
    return target.path


def check_class(folder: Path) -> None:
    """ValueError unless the folder holds a pipeline of this project."""
    name = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    name = name[-1] if isinstance(name, list) else name
    if name != DecoLattePipeline.__name__:
        raise ValueError(
            f"{folder} is a {name}, but only a {DecoLattePipeline.__name__} (from export.py) can be sampled here: "
            "sample with your pipeline into a folder of videos, and name that in evaluate.samples"
        )


def plan_videos(config: Experiment, index: ClipIndex) -> list[dict]:
    """An entry per video, {"index", "class", "label", "seed", "name"}: classes in the proportions of the real split."""
    protocol = find_protocol(config.evaluate.protocol)
    real = RealFiles.of(config, index, protocol)
    num_sets = config.evaluate.num_sets or protocol.num_sets
    num_videos = videos_wanted(config.evaluate.num_videos, protocol, len(real.entries), protocol.num_clips)
    quotas = class_quotas(real.class_counts() or {-1: 1}, num_videos)
    labels = [label for _ in range(num_sets) for label, quota in quotas.items() for _ in range(quota)]
    plan = []
    for position, label in enumerate(labels):
        name = index.classes[label] if label >= 0 else None
        seed = key(config.run.seed, "evaluate", position) % 2**31
        entry = {"index": position, "class": name, "label": label, "seed": seed}
        plan.append(entry | {"name": f"{position:05d}-{file_name(name or 'video')}"})
    return plan


@torch.no_grad()
def generate(folder: Path, missing: Sequence[dict], target: Path, config: Experiment, device: torch.device) -> None:
    """Sample the missing videos in batches of sample.batch_size and write each whole."""
    pipeline = DecoLattePipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    size = config.sample.batch_size
    starts = range(0, len(missing), size)
    for start in told(starts, "sampling", "batch", len(starts)):
        batch = missing[start : start + size]
        labels = None if batch[0]["class"] is None else [entry["class"] for entry in batch]
        generators = [torch.Generator().manual_seed(entry["seed"]) for entry in batch]
        options = {} if labels else {"num_videos_per_label": len(batch)}
        frames = pipeline(labels, generator=generators, output_type="pt", **options).frames  # (b, t, 3, h, w) in [0, 1]
        for entry, video in zip(batch, to_uint8(frames.float().cpu().movedim(2, 1) * 2 - 1), strict=True):
            file = sample_file(target, entry, "lossless")
            part = file.with_name(f".part-{file.name}")
            save_file({"video": video}, part)
            part.replace(file)
