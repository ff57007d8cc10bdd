"""Protocols of the Frechet video distance as data: whatever defines the number is a field, and stands in the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FvdProtocol:
    """All that defines an FVD number."""

    name: str  # what the result is called after
    num_frames: int = 16  # frames 0..num_frames-1 of every clip are scored
    num_clips: int = 2048  # real clips, and generated clips per set; the distance is biased upward when there are fewer
    num_sets: int = 1  # fresh sets of generated clips; value and std are over these
    weights_file: str = "i3d_torchscript.pt"  # of the network, a name of i3d_weights.BN_EPS
    real_split: str = "train"  # split that the real clips come from: "train" | "all" = train and validation
    real_selection: str = "permutation"  # "permutation": a seeded draw without repetition | "sorted": the first files
    real_start: str = "random"  # where a clip starts in its file: "random", seeded | "first": frame 0
    real_frame_stride: int = 0  # every n-th frame of the real file; 0 = the stride that the generator was trained with
    resize: str = "antialiased"  # file -> clip: as training clips are made, or a name of codec_round_trip.RESIZES
    real_codecs: tuple[str, ...] = ()  # what real clips go through before scoring, names of codec_round_trip.CODECS
    fake_codecs: tuple[str, ...] = ()  # what lossless samples go through before scoring
    needs_lossless: bool = False  # samples that went through a codec get an id of their own
    class_prior: str = "as given"  # classes of a set: "as given" | "empirical" = in the proportions of the real split
    unbiased_covariance: bool = False  # divide by n - 1 instead of n
    floor: bool = False  # also the distance between two disjoint sets of real clips


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Ours: the weights of TensorFlow's original, nothing between pixels and network but the resize.
        FvdProtocol(
            "fvd16-strict",
            num_sets=5,
            weights_file="i3d_kinetics400.safetensors",
            needs_lossless=True,
            class_prior="empirical",
            floor=True,
        ),
        # StyleGAN-V's scripts: both folders hold JPEG frames; the first 2048 of all sorted files, stride 1.
        FvdProtocol(
            "fvd16-stylegan-v",
            real_split="all",
            real_selection="sorted",
            real_frame_stride=1,
            resize="lanczos-then-crop",
            real_codecs=("jpeg75",),
            fake_codecs=("jpeg75",),
        ),
        # Latte's: the samples are mp4 first, then JPEG frames; real clips at its training stride 3, samples at 1. Its
        # draw of real clips is not seeded, ours is.
        FvdProtocol(
            "fvd16-latte",
            real_split="all",
            real_frame_stride=3,
            resize="crop-then-lanczos",
            real_codecs=("jpeg75",),
            fake_codecs=("h264", "jpeg75"),
        ),
        # VideoGPT's port, as TATS and others use it: its own weights, covariance divided by n - 1. It leaves the choice
        # of clips to its caller: here that of fvd16-strict. Square clips reach 224 x 224 as in the other protocols.
        FvdProtocol("fvd-videogpt", weights_file="i3d_pretrained_400.pt", unbiased_covariance=True),
    )
}


def find_protocol(name: str) -> FvdProtocol:
    """The protocol called `name`; ValueError naming the known ones when there is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"evaluate.protocol is one of {', '.join(PROTOCOLS)}, got {name!r}; choose one of them.")
    return PROTOCOLS[name]


def deviations(
    protocol: FvdProtocol,
    num_videos: int,
    num_sets: int,
    codec: str,
    missed_prior: bool,
    precision: str,
    weights_file: str,
) -> list[str]:
    """What is not as the protocol says, as words of the result's id; [] for a number under the protocol itself.

    codec: of the samples as they were given, "" = lossless. missed_prior: the classes of the sets could not be drawn as
    the protocol says. weights_file: "" for the proxy, whose name says so itself.
    """
    words = []
    if codec and codec not in protocol.fake_codecs:
        words.append("lossy" if protocol.needs_lossless else codec)
    words += [f"n{num_videos}"] if num_videos != protocol.num_clips else []
    words += [f"sets{num_sets}"] if num_sets != protocol.num_sets else []
    words += ["own-classes"] if missed_prior else []
    words += [precision] if precision != "fp32" else []
    words += ["other-weights"] if weights_file not in ("", protocol.weights_file) else []
    return words


def score_id(protocol: FvdProtocol, words: Sequence[str], weights: str) -> str:
    """The name under which numbers may be compared: the protocol's, the weights, and what deviates from it.

    weights: from `i3d_weights.weights_word`, "" for the proxy.
    """
    known = weights == protocol.weights_file.partition(".")[0]  # published scores are those of the named file
    named = [weights] if weights and not known else []
    return "-".join([protocol.name if weights else f"proxy_{protocol.name}", *named, *words])


def codecs_left(codecs: tuple[str, ...], codec: str) -> tuple[str, ...]:
    """Those of a protocol's codecs that samples have still to go through: all up to one they went through are done.

    codec: of the samples as given: "" = lossless, "jpeg75", "jpeg" (another quality), or that of a video file.
    What is none of the protocol's comes on top of all, and stands in the id.
    """
    return codecs[codecs.index(codec) + 1 :] if codec in codecs else codecs


def select_real_clips(protocol: FvdProtocol, num_available: int, num_clips: int, seed: int) -> list[int]:
    """Positions in the sorted list of the split's files that are scored, without repetition.

    The same on every rank: shard this list, never draw per rank. Raises ValueError when there are too few files.
    """
    if num_clips > num_available:
        raise ValueError(
            f"protocol {protocol.name} wants {num_clips} real clips, but {num_available} files of split "
            f"{protocol.real_split} are long enough: set evaluate.num_videos={num_available}, which the result's name "
            "then carries"
        )
    if protocol.real_selection == "sorted":
        return list(range(num_clips))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_available, generator=generator)[:num_clips].tolist()


def floor_halves(num_available: int, num_clips: int, seed: int) -> tuple[list[int], list[int]]:
    """Two disjoint draws of real positions, as many as `num_clips` each where there are so many: all is reused.

    The first begins as `select_real_clips` does, so that its features serve both.
    """
    size = min(num_clips, num_available // 2)
    order = torch.randperm(num_available, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[:size], order[size : 2 * size]


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


def class_quotas(real_counts: Mapping[int, int], num_videos: int) -> dict[int, int]:
    """How many of `num_videos` belong to each class so that they follow `real_counts`, by the largest remainder."""
    total = sum(real_counts.values())
    exact = {label: num_videos * count / total for label, count in sorted(real_counts.items())}
    quotas = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (quotas[label] - exact[label], label))
    for label in by_remainder[: num_videos - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def draw_sets(
    labels: Sequence[int], num_videos: int, num_sets: int, seed: int, real_counts: Mapping[int, int] | None
) -> tuple[list[list[int]], bool]:
    """Positions of `num_sets` disjoint sets of samples, from one seeded permutation; whether classes are as in reality.

    labels: of all samples. real_counts: clips per class of the real split, or None to take samples as they come; they
    are taken as they come, too, where some class has too few. ValueError when there are fewer samples than asked for.
    """
    if num_videos * num_sets > len(labels):
        raise ValueError(
            f"{num_sets} set(s) of {num_videos} generated videos are wanted, but there are {len(labels)}: sample more, "
            f"or set evaluate.num_sets=1 evaluate.num_videos=-1, which the result's name then carries"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    if real_counts:
        by_class: dict[int, list[int]] = {}
        for position in order:
            by_class.setdefault(labels[position], []).append(position)
        quotas = class_quotas(real_counts, num_videos)
        if all(len(by_class.get(label, [])) >= quota * num_sets for label, quota in quotas.items()):
            return [
                [p for label, quota in quotas.items() for p in by_class.get(label, [])[s * quota : (s + 1) * quota]]
                for s in range(num_sets)
            ], True
    return [order[s * num_videos : (s + 1) * num_videos] for s in range(num_sets)], False
