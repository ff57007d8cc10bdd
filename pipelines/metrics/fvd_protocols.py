"""Frechet video distance under named protocols: everything that defines the number is a field, and is in the result."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import fmean, stdev

import torch
from torch import Tensor

from pipelines.metrics.codec_round_trip import codec_round_trip
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import FeatureExtractor


@dataclass(frozen=True)
class FvdProtocol:
    """All that defines an FVD number, besides the I3D weights."""

    name: str  # what the result is called after
    num_frames: int = 16  # frames 0..num_frames-1 of every clip are scored
    num_clips: int = 2048  # real clips, and generated clips per set; the distance is biased upward when there are fewer
    real_split: str = "train"  # split that the real clips come from
    real_selection: str = "permutation"  # "permutation": a seeded draw without repetition | "sorted": the first files
    real_start: str = "random"  # where a clip starts in its file: "random", seeded | "first": frame 0
    real_frame_stride: int = 0  # every n-th frame of the real file; 0 = the stride that the generator was trained with
    resize: str = "antialiased"  # file -> clip, a name of codec_round_trip.RESIZES
    real_codecs: tuple[str, ...] = ()  # what real clips go through before scoring, names of codec_round_trip.CODECS
    fake_codecs: tuple[str, ...] = ()  # what generated clips go through before scoring
    unbiased_covariance: bool = False  # divide by n - 1 instead of n; all three lineages divide by n
    num_sets: int = 1  # fresh sets of generated clips; value and std are over these


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        FvdProtocol("fvd16-strict", num_sets=5),
        # StyleGAN-V's scripts: both folders hold JPEG frames; the first 2048 of the sorted files, stride 1.
        FvdProtocol(
            "fvd16-stylegan-v",
            real_selection="sorted",
            real_frame_stride=1,
            resize="lanczos-then-crop",
            real_codecs=("jpeg75",),
            fake_codecs=("jpeg75",),
        ),
        # Latte's: the samples are mp4 first, then JPEG frames; real clips at its training stride 3, samples at 1.
        FvdProtocol(
            "fvd16-latte",
            real_frame_stride=3,
            resize="crop-then-lanczos",
            real_codecs=("jpeg75",),
            fake_codecs=("h264", "jpeg75"),
        ),
    )
}


@dataclass(frozen=True)
class EvaluateConfig:
    """How reconstructions and generated videos are scored."""

    protocol: str = "fvd16-strict"  # fvd16-strict | fvd16-stylegan-v | fvd16-latte
    num_real: int = 0  # real clips for FVD; 0 = what the protocol asks for, -1 = that or all there are
    num_fake: int = 0  # generated clips per set for FVD; 0 = what the protocol asks for, -1 = that or all there are
    num_sets: int = 0  # sets of generated clips for FVD; 0 = what the protocol asks for
    weights_dir: str = "weights"  # folder with the I3D and LPIPS files; FVD is proxy_fvd16 when I3D is not there
    i3d_bn_eps: float = 1e-5  # 1e-5 for i3d_pretrained_400.pt, 1e-3 for weights ported from tf-hub
    i3d_precision: str = "fp32"  # fp32 | bf16 (about twice as fast on CPU, not for published numbers)
    i3d_batch_size: int = 4  # clips per forward pass of I3D
    lpips_network: str = "alex"  # alex (video VAE papers) | vgg (VidTok); used when its file is in weights_dir
    classifier_seeds: int = 3  # classifiers trained for class accuracy, seeds 0, 1, ...; 0 = no class accuracy
    classifier_steps: int = 250  # training steps of each classifier
    classifier_clips: int = 512  # clips of either split that the classifiers see at most, spread over the files
    reconstruction_clips: int = 256  # held-out clips whose reconstruction is scored at most


def find_protocol(name: str) -> FvdProtocol:
    """The protocol called `name`; ValueError naming the known ones when there is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"evaluate.protocol is one of {', '.join(PROTOCOLS)}, got {name!r}; choose one of them.")
    return PROTOCOLS[name]


def select_real_clips(protocol: FvdProtocol, num_available: int, num_clips: int, seed: int) -> list[int]:
    """Positions in the sorted list of the split's files that are scored, without repetition.

    The same on every rank: shard this list, never draw per rank. Raises ValueError when there are too few files.
    """
    if num_clips > num_available:
        raise ValueError(
            f"protocol {protocol.name} wants {num_clips} real clips, split {protocol.real_split} has {num_available}; "
            f"set evaluate.num_real={num_available} (the result records it)."
        )
    if protocol.real_selection == "sorted":
        return list(range(num_clips))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_available, generator=generator)[:num_clips].tolist()


def real_frame_indices(
    protocol: FvdProtocol, file_frames: int, training_stride: int, position: int, seed: int
) -> list[int]:
    """Frames of the file at `position` of the sorted list that are scored; [] when it is too short (discarded)."""
    stride = protocol.real_frame_stride or training_stride
    last_start = file_frames - (protocol.num_frames - 1) * stride - 1
    if last_start < 0:
        return []
    start = 0
    if protocol.real_start == "random":
        generator = torch.Generator().manual_seed((seed * 1_000_003 + position) % 2**63)
        start = int(torch.randint(last_start + 1, (), generator=generator))
    return [start + stride * frame for frame in range(protocol.num_frames)]


def feature_statistics(
    clips: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    num_frames: int,
    codecs: tuple[str, ...],
    max_clips: int | None = None,
) -> FeatureStatistics | None:
    """Statistics of I3D features of the first `num_frames` frames of at most `max_clips` clips; None without clips.

    clips: (n, t, h, w, 3) uint8, t >= num_frames, or a stream of such tensors, of which one is in memory at a time.
    """
    statistics: FeatureStatistics | None = None
    chunks = clips.split(extractor.batch_size) if isinstance(clips, Tensor) else clips
    left = max_clips
    for chunk in chunks:
        chunk = chunk[:left]
        if chunk.shape[1] < num_frames:
            raise ValueError(f"FVD scores {num_frames} frames, got clips of {chunk.shape[1]}; make longer clips.")
        part = FeatureStatistics.of(extractor.features(codec_round_trip(chunk[:, :num_frames], codecs)))
        statistics = part if statistics is None else statistics.merge(part)
        left = None if left is None else left - len(chunk)
        if left == 0:
            break
    return statistics


def frechet_video_distance(
    real: Tensor | Iterable[Tensor],
    fake_sets: Sequence[Tensor | Iterable[Tensor]],
    extractor: FeatureExtractor,
    protocol: FvdProtocol,
    *,
    num_real: int = 0,
    num_fake: int = 0,
    num_sets: int = 0,
    seeds: Sequence[int] = (),
) -> dict[str, object]:
    """Score sets of generated clips against real clips under `protocol` and return a JSON-ready result.

    real: (n, t, h, w, 3) uint8 or a stream of such chunks, chosen and read as the protocol says (`select_real_clips`,
    `real_frame_indices`, `resize_and_crop`); fake_sets: one such tensor or stream per fresh set of samples. num_real,
    num_fake and num_sets are explicit deviations from the protocol (0 = as it says). The result holds name ("fvd16", or
    "proxy_fvd16" without I3D weights), value (mean over sets), std (over sets, None for one), values, complete (nothing
    deviates from the protocol), the protocol, weights, counts and seeds. ValueError when clips or sets are missing.
    """
    wanted_real, wanted_fake = num_real or protocol.num_clips, num_fake or protocol.num_clips
    wanted_sets = num_sets or protocol.num_sets
    if len(fake_sets) < wanted_sets:
        raise ValueError(
            f"protocol {protocol.name} wants {wanted_sets} sets of samples, got {len(fake_sets)}; sample more sets or "
            f"set evaluate.num_sets={len(fake_sets)} (the result records it)."
        )
    real_statistics = feature_statistics(real, extractor, protocol.num_frames, protocol.real_codecs, wanted_real)
    _check_count(real_statistics, wanted_real, "real", protocol)
    values = []
    for clips in islice(fake_sets, wanted_sets):
        fake_statistics = feature_statistics(clips, extractor, protocol.num_frames, protocol.fake_codecs, wanted_fake)
        _check_count(fake_statistics, wanted_fake, "fake", protocol)
        values.append(frechet_distance(real_statistics, fake_statistics, protocol.unbiased_covariance))
    as_asked = (wanted_real, wanted_fake, wanted_sets) == (protocol.num_clips, protocol.num_clips, protocol.num_sets)
    return {
        "name": ("proxy_fvd" if extractor.is_proxy else "fvd") + str(protocol.num_frames),
        "value": fmean(values),
        "std": stdev(values) if len(values) > 1 else None,
        "values": values,
        "complete": as_asked and not extractor.is_proxy and extractor.precision == "fp32",
        "protocol": asdict(protocol),
        "weights_file": extractor.weights_file,
        "weights_hash": extractor.weights_hash,
        "bn_eps": extractor.bn_eps,
        "precision": extractor.precision,
        "num_real": wanted_real,
        "num_fake": wanted_fake,
        "num_sets": wanted_sets,
        "seeds": list(seeds),
    }


def _check_count(statistics: FeatureStatistics | None, wanted: int, kind: str, protocol: FvdProtocol) -> None:
    got = 0 if statistics is None else statistics.num_samples
    if got < wanted:
        raise ValueError(
            f"protocol {protocol.name} wants {wanted} {kind} clips, got {got}; supply more or set "
            f"evaluate.num_{kind}={got} (the result records it: the distance is biased upward when clips are few)."
        )
