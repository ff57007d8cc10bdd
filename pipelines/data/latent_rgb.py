"""Latent-to-RGB probe: small pictures straight from latents, without the decoder, for previews during sampling.

One linear map, fitted by least squares while the cache is written: the RGB of a cell at a latent time from all latents
of that cell, the parts added up. Latent time 0 is the first frame, time j the mean of frames 4 j - 3 to 4 j. A part of
one frame (the keyframe) counts at every time; a part that holds nothing of the first frame is absent at time 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from pipelines.data.video_file import to_uint8

KINDS = ("first", "rest")  # latent time 0, and all others: each has a map of its own
RIDGE = 1e-6  # of the mean square of a whitened latent: keeps channels that never change out of the solution
DIGITS = 6  # of the weights; more would depend on how many threads solve the equations
FRAMES_PER_LATENT = 4


def small_frames(video: Tensor, size: Sequence[int]) -> Tensor:
    """Video as the probe sees it: (b, 3, 4 n + 1, h, w) in [-1, 1] -> (b, 3, n + 1, *size), means over cells."""
    first, rest = video.split([1, video.shape[2] - 1], dim=2)
    groups = reduce(rest, "b c (t k) h w -> b c t h w", "mean", k=FRAMES_PER_LATENT)
    height, width = size
    return reduce(torch.cat([first, groups], 2), "b c t (h p) (w q) -> b c t h w", "mean", h=height, w=width)


def times_of(num_frames: int, num_times: int) -> dict[str, list[int]]:
    """Which frames of a part stand at the latent times of each kind; a kind that it says nothing about is absent."""
    rest = num_times - 1
    if num_frames == num_times:
        times = {"first": [0], "rest": list(range(1, num_times))}
    elif num_frames == 1:
        times = {"first": [0], "rest": [0] * rest}
    elif num_frames == rest:
        times = {"rest": list(range(rest))}
    else:
        return {}
    return {kind: frames for kind, frames in times.items() if frames}


def cross_moments(means: Mapping[str, Tensor], rgb: Tensor) -> dict[str, Tensor]:
    """What a least-squares fit needs, to be added up over clips.

    Args:
        means: {part: (n, c, t, h, w)}, not whitened.
        rgb: (n, 3, t', h, w), what `small_frames` gave.

    Returns:
        {kind: sum over cells of v v^T with v = (all latents of the cell, 1, R, G, B)}, float64.
    """
    sums = {}
    for kind, shown in zip(KINDS, rgb.double().split([1, rgb.shape[2] - 1], dim=2), strict=True):
        used = [(z, times_of(z.shape[2], rgb.shape[2]).get(kind)) for z in means.values()]
        columns = [z.double()[:, :, frames] for z, frames in used if frames]
        columns = [*columns, torch.ones_like(shown[:, :1]), shown]
        values = torch.cat([rearrange(column, "n c t h w -> c (n t h w)") for column in columns]).numpy()
        # einsum's own loop: a matrix product's last digits depend on the number of threads
        sums[kind] = torch.from_numpy(np.einsum("ai,bi->ab", values, values))
    return sums


def fit(sums: Mapping[str, Tensor], parts: Mapping[str, Mapping[str, Any]], num_times: int) -> dict[str, dict]:
    """The probe of every part, from the sums of `cross_moments` over all clips.

    Args:
        sums: {kind: (n, n) float64}.
        parts: {part: {"shape": [c, t, h, w], "mean": [c], "std": [c]}}; the equations are solved for whitened latents.
        num_times: latent times of a clip.

    Returns:
        {part: {"times": num_times, kind: {"weight": 3 rows of c, "bias": [3]}}} for latents as the autoencoder gives
        them, RGB in [-1, 1]. The bias stands with the first part that the kind has.
    """
    probe: dict[str, dict] = {part: {"times": num_times} for part in parts}
    for kind in KINDS:
        used = [part for part, entry in parts.items() if kind in times_of(entry["shape"][1], num_times)]
        total = sums[kind].numpy()
        count = total[-4, -4]
        if not used or not count:
            continue
        mean = np.concatenate([parts[part]["mean"] for part in used])
        std = np.concatenate([parts[part]["std"] for part in used])
        latents, rgb = slice(0, len(mean)), slice(-3, None)
        whiten, cross = np.diag(1 / std), np.outer(mean, total[-4, latents])
        centred = total[latents, latents] - cross - cross.T + count * np.outer(mean, mean)
        gram, sum_whitened = whiten @ centred @ whiten, whiten @ (total[latents, -4] - count * mean)
        with_rgb = whiten @ (total[latents, rgb] - np.outer(mean, total[-4, rgb]))
        left = np.block([[gram, sum_whitened[:, None]], [sum_whitened[None], np.full((1, 1), count)]])
        left[latents, latents] += RIDGE * count * np.eye(len(mean))
        solution = np.linalg.solve(left, np.concatenate([with_rgb, total[-4:-3, rgb]]))
        weight = solution[:-1].T / std  # (3, all channels), for latents that are not whitened
        bias, start = solution[-1] - weight @ mean, 0
        for part in used:
            stop = start + parts[part]["shape"][0]
            probe[part][kind] = {
                "weight": _rounded(weight[:, start:stop]),
                "bias": _rounded(bias if not start else 0 * bias),
            }
            start = stop
    return probe


def _rounded(values: np.ndarray) -> list:
    return [_rounded(row) for row in values] if values.ndim > 1 else [float(f"{x:.{DIGITS}g}") for x in values]


def latent_preview(latents: Mapping[str, Tensor], parts: Mapping[str, Mapping[str, Any]]) -> Tensor:
    """Small pictures of latents: {part: (b, c, t, h, w)}, not whitened -> (b, t', h, w, 3) uint8.

    Args:
        latents: all parts of a clip as the autoencoder gives them and the sampler returns them.
        parts: {part: {"rgb": ...}}: `LatentCache.parts`, or what a trained Latte remembers of it.

    Raises:
        ValueError: the parts carry no probe.
    """
    if missing := [part for part in latents if "rgb" not in parts[part]]:
        raise ValueError(
            f"there is no latent-to-RGB probe for {', '.join(missing)}; run pipelines/cache_latents.py again"
        )
    num_times = next(iter(parts.values()))["rgb"]["times"]
    pieces = []
    for kind, length in (("first", 1), ("rest", num_times - 1)):
        picture: Tensor | None = None
        for part, z in latents.items():
            probe = parts[part]["rgb"].get(kind)
            if probe is None:
                continue
            shown = z.float()[:, :, times_of(z.shape[2], num_times)[kind]]
            weight, bias = (torch.tensor(probe[name], device=z.device) for name in ("weight", "bias"))
            share = torch.einsum("oc,bcthw->bothw", weight, shown) + rearrange(bias, "o -> o 1 1 1")
            picture = share if picture is None else picture + share
        if picture is not None and length:
            pieces.append(picture)
    return to_uint8(torch.cat(pieces, dim=2))
