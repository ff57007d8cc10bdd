"""Score reconstructions and samples: python pipelines/evaluate.py [CONFIG.yaml ...] [key=value ...]

Writes runs/<run>/evaluate/<samples>-<digest>/scores.json: PSNR and SSIM of held-out clips and of every component, class
accuracy with its controls, diversity, Frechet video distance (proxy_fvd16 where the I3D weights are absent).
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from pipelines.cache_latents import fixed_clips, open_cache
from pipelines.data.clip_dataset import FixedClips, collate
from pipelines.data.clip_index import ClipIndex
from pipelines.data.video_file import read_video, to_float, to_uint8
from pipelines.experiment import Experiment
from pipelines.metrics import class_accuracy
from pipelines.metrics.codec_round_trip import resize_and_crop
from pipelines.metrics.diversity import diversity
from pipelines.metrics.frame_quality import load_lpips, lpips_available, lpips_distance, psnr, ssim
from pipelines.metrics.fvd_protocols import (
    FvdProtocol,
    find_protocol,
    frechet_video_distance,
    real_frame_indices,
    select_real_clips,
)
from pipelines.metrics.i3d_weights import load_i3d
from pipelines.prepare_data import open_index
from pipelines.run.folder import StageFolder, resolve_model, write_json
from pipelines.run.ranks import choose_device
from pipelines.run.stage import main, select
from pipelines.sample import model_paths, sample_folder
from pipelines.sampling.sample_files import read_samples
from pipelines.train_motion import index_input
from pipelines.train_vae import run_path
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

STAGE = "evaluate"
BATCH = 16
# Components whose PSNR against the clip itself means something.
SCORED_AS_VIDEO = {"reconstruction": "psnr", "warped": "psnr_warp_only", "decoded_warped": "psnr_warp_decoded"}


def run(config: Experiment) -> None:
    """Score the autoencoder and the samples of exactly this configuration."""
    device = choose_device(config.run.device)
    index = open_index(config)
    samples = sample_folder(config)
    folder = StageFolder(config.run.root, config.run.name, f"{STAGE}/{score_name(config)}")
    inputs = index_input(index) | {"samples": {"path": str(samples), "hash": samples.name}}
    with folder.open(select(config, ("data", "evaluate", "run")), inputs, ("data.*", "evaluate.i3d_batch_size")):
        if folder.done:
            print(f"{STAGE}: scored already, {folder.path / 'scores.json'}")
            return
        vae = load_autoencoder(model_paths(config)[1]).to(device)
        scores = {"reconstruction": score_reconstruction(vae, config, index), "generation": {}}
        plan, videos = read_samples(samples)
        labels = torch.tensor([entry["label"] for entry in plan])
        scores["generation"] |= score_classes(config, index, videos, labels, device)
        scores["generation"] |= score_frechet(config, index, plan, videos, device)
        write_json(folder.path / "scores.json", scores)
        folder.finish({"scores": "scores.json"})
        for section, values in scores.items():
            print(f"{section}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, float)))


def score_name(config: Experiment) -> str:
    """Folder name of the scores: the set of samples, and a digest of the options of `evaluate`."""
    options = select(config, ("evaluate",))["evaluate"]
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:6]
    return f"{sample_folder(config).name}-{digest}"


@torch.no_grad()
def score_reconstruction(vae: VideoAutoencoder, config: Experiment, index: ClipIndex) -> dict[str, float | None]:
    """Means over held-out clips, over frames 1 .. t - 1, on uint8; PSNR from the MSE of the whole clip."""
    clips = FixedClips(index, config.data, "validation")
    chosen = spread(len(clips), config.evaluate.reconstruction_clips)
    weights = config.evaluate.weights_dir
    lpips = None
    if lpips_available(weights, config.evaluate.lpips_network):
        lpips = load_lpips(weights, config.evaluate.lpips_network)
    values: dict[str, list[Tensor]] = {}
    for start in range(0, len(chosen), BATCH):
        video = collate([clips[i] for i in chosen[start : start + BATCH]])["video"]
        components = vae.decode_components(vae.pad_clip(video).to(vae.device))
        true = to_uint8(video)[:, 1:]
        scored = {"psnr_copy_first_frame": to_uint8(video)[:, :1].expand_as(true)}
        for component, name in SCORED_AS_VIDEO.items():
            if component in components:
                scored[name] = to_uint8(crop_like(components[component].cpu(), video))[:, 1:]
        batch = {name: psnr(shown, true) for name, shown in scored.items()}
        batch["ssim"] = ssim(scored["psnr"], true)
        if "keyframe" in components:
            names = ("decoded_keyframe", "keyframe")
            batch["psnr_keyframe"] = psnr(*(to_uint8(crop_like(components[n].cpu(), video))[:, :1] for n in names))
        if lpips is not None:
            batch[f"lpips_{config.evaluate.lpips_network}"] = lpips_distance(lpips, scored["psnr"], true)
        for name, scores in batch.items():
            values.setdefault(name, []).append(scores.float())
    missing = dict.fromkeys(SCORED_AS_VIDEO.values())  # a model without motion has no warp to score
    return missing | {name: float(torch.cat(scores).mean()) for name, scores in values.items()} | {"clips": len(chosen)}


def crop_like(component: Tensor, video: Tensor) -> Tensor:
    """Undo the padding: (b, 3, t', h', w') -> the shape of `video` (b, 3, t, h, w)."""
    num_frames, height, width = video.shape[2:]
    return component[:, :, :num_frames, :height, :width]


def spread(available: int, wanted: int) -> list[int]:
    """`wanted` positions spread evenly over range(available); all of them where there are fewer."""
    return torch.linspace(0, available - 1, min(wanted, available)).round().long().unique().tolist()


def score_classes(
    config: Experiment, index: ClipIndex, videos: Tensor, labels: Tensor, device: torch.device
) -> dict[str, float | list[float] | None]:
    """Class accuracy of the samples, of real held-out clips, of first frames alone; diversity.

    The classifiers learn from real training clips, each decoded from the latent cache (what samples went through too)
    and as it is (without these they lean on traces of coding, and fail on clips that have none). The same on held-out
    clips is what a perfect generator would reach. videos: (n, t, h, w, 3) uint8; labels: (n,), -1 = no class.
    """
    real, real_labels = held_out_clips(config, index)
    scores: dict[str, float | list[float] | None] = {"diversity": diversity(videos, labels, real, real_labels)[0]}
    if not index.classes or not config.evaluate.classifier_seeds:
        return scores
    training, training_labels = classifier_clips(config, index, device)
    decoded = decode_clips(real, config, device)
    classes, steps = len(index.classes), config.evaluate.classifier_steps
    names = ("class_accuracy", "class_accuracy_real", "class_accuracy_real_decoded", "class_accuracy_first_frame")
    accuracies: dict[str, list[float]] = {name: [] for name in names}
    still = class_accuracy.repeat_first_frame
    for seed in range(config.evaluate.classifier_seeds):
        judge = class_accuracy.fit(training, training_labels, classes, seed, steps, device)
        accuracies["class_accuracy"].append(class_accuracy.accuracy(judge, videos, labels))
        accuracies["class_accuracy_real"].append(class_accuracy.accuracy(judge, real, real_labels))
        accuracies["class_accuracy_real_decoded"].append(class_accuracy.accuracy(judge, decoded, real_labels))
        still_judge = class_accuracy.fit(still(training), training_labels, classes, seed, steps, device)
        accuracies["class_accuracy_first_frame"].append(class_accuracy.accuracy(still_judge, still(real), real_labels))
    means = {name: fmean(values) for name, values in accuracies.items()}
    return scores | means | {f"{name}_per_seed": values for name, values in accuracies.items()}


def held_out_clips(config: Experiment, index: ClipIndex) -> tuple[Tensor, Tensor]:
    """Real clips of the validation split, (n, t, h, w, 3) uint8, and their labels (n,)."""
    clips = FixedClips(index, config.data, "validation")
    chosen = [clips[i] for i in spread(len(clips), config.evaluate.classifier_clips)]
    return torch.stack([to_uint8(clip["video"]) for clip in chosen]), torch.tensor([clip["label"] for clip in chosen])


@torch.no_grad()
def classifier_clips(config: Experiment, index: ClipIndex, device: torch.device) -> tuple[Tensor, Tensor]:
    """Clips of the training split, decoded from the cache and as they are: (2 n, t, h, w, 3) uint8, labels (2 n,)."""
    cache = open_cache(config, index)
    vae = load_autoencoder(resolve_model(config.cache.vae, run_path(config), "train_vae")).to(device)
    clips = fixed_clips(config, index, "train")
    positions = cache.split("train")
    chosen = spread(len(positions), config.evaluate.classifier_clips)
    videos = [to_uint8(clips[i]["video"]).unsqueeze(0) for i in chosen]
    for start in range(0, len(chosen), BATCH):
        latents = cache.latents([positions[i] for i in chosen[start : start + BATCH]], whiten=False)
        videos.append(to_uint8(vae.decode({part: z.to(device) for part, z in latents.items()}).cpu()))
    return torch.cat(videos), cache.labels[[positions[i] for i in chosen]].repeat(2)


@torch.no_grad()
def decode_clips(video_uint8: Tensor, config: Experiment, device: torch.device) -> Tensor:
    """Encode and decode clips (n, t, h, w, 3) uint8."""
    vae = load_autoencoder(resolve_model(config.cache.vae, run_path(config), "train_vae")).to(device)
    return torch.cat([to_uint8(vae.reconstruct(to_float(part).to(device)).cpu()) for part in video_uint8.split(BATCH)])


def score_frechet(
    config: Experiment, index: ClipIndex, plan: list[dict], videos: Tensor, device: torch.device
) -> dict[str, object]:
    """FVD under the configured protocol, or proxy_fvd16; {"fvd16": value, "fvd16_protocol": the whole record}."""
    options = config.evaluate
    protocol = find_protocol(options.protocol)
    extractor = load_i3d(options.weights_dir, options.i3d_bn_eps, options.i3d_precision, options.i3d_batch_size, device)
    num_sets = options.num_sets or protocol.num_sets
    num_real = clips_wanted(options.num_real, protocol, len(index.split(protocol.real_split)))
    num_fake = clips_wanted(options.num_fake, protocol, len(videos) // num_sets)
    # Samples are ordered by class: a seeded order makes every set a draw over all classes.
    order = torch.randperm(len(videos), generator=torch.Generator().manual_seed(config.run.seed))
    sets = [videos[chosen] for chosen in order[: num_fake * num_sets].split(num_fake)]
    result = frechet_video_distance(
        real_clips(config, index, protocol, num_real),
        sets,
        extractor,
        protocol,
        num_real=num_real,
        num_fake=num_fake,
        num_sets=num_sets,
        seeds=sorted({int(entry["seed"]) for entry in plan}),
    )
    return {str(result["name"]): result["value"], f"{result['name']}_record": result}


def clips_wanted(option: int, protocol: FvdProtocol, available: int) -> int:
    """What evaluate.num_real and num_fake mean: 0 = what the protocol asks for, -1 = that or all there are."""
    return min(protocol.num_clips, available) if option < 0 else option or protocol.num_clips


def real_clips(config: Experiment, index: ClipIndex, protocol: FvdProtocol, wanted: int) -> Iterator[Tensor]:
    """The real clips of a protocol, one (1, t, h, w, 3) uint8 at a time, read from the files as it says."""
    entries = sorted(index.split(protocol.real_split), key=lambda entry: entry.path)
    for position in select_real_clips(protocol, len(entries), wanted, config.run.seed):
        entry = entries[position]
        frames = real_frame_indices(protocol, entry.num_frames, config.data.frame_stride, position, config.run.seed)
        if frames:  # too short for the protocol's stride: discarded, as it says
            clip = read_video(Path(index.root) / entry.path, frames, entry.reader)
            yield resize_and_crop(clip, config.data.resolution, protocol.resize).unsqueeze(0)


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "cache", "sample", "evaluate", "run"))
