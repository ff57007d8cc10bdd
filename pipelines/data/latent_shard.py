"""One shard of a latent cache: clips [k n, (k + 1) n) in a safetensors file, committed whole or not at all.

Tensors of storage moments_fp32: PART.mean and PART.logvar, (n, c, t, h, w) float32. Of means_fp16: PART.mean, float16
with mean 0 and standard deviation 1 per channel of the shard, and PART.offset, PART.scale, (c,) float32, which undo
that: 11 bits at any size, so a rounded value is off by 2^-12 of itself at most. Both: rgb_probe.first, rgb_probe.rest,
float64 (latent_rgb.py).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

MOMENTS_FP32, MEANS_FP16 = "moments_fp32", "means_fp16"
BYTES_PER_VALUE = {MOMENTS_FP32: 8, MEANS_FP16: 2}  # of a latent: two moments of 4 bytes, or one of 2
REMAKE = "remove that folder and run python pipelines/cache_latents.py with the same configuration"
CHECKSUM = "checksum"
MIN_STD = 1e-6  # of a channel that never changes: whitening turns it into zeros, not into infinities
Moments = Mapping[str, tuple[Tensor, Tensor]]  # {part: (mean, logvar)}, each (b, c, t, h, w)


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"


def record_name(shard: int) -> str:
    return f"shard-{shard:05d}.json"


def shard_tensors(moments: Moments, storage: str) -> dict[str, Tensor]:
    """The tensors to store, by name, from {part: (mean, logvar)}, each (n, c, t, h, w) float32."""
    tensors = {}
    for part, (mean, logvar) in moments.items():
        if storage == MOMENTS_FP32:
            tensors |= {f"{part}.mean": mean, f"{part}.logvar": logvar}
            continue
        offset, scale = standardisation(mean)
        standard = (mean - rearrange(offset, "c -> c 1 1 1")) / rearrange(scale, "c -> c 1 1 1")
        tensors |= {f"{part}.mean": standard.half(), f"{part}.offset": offset, f"{part}.scale": scale}
    return tensors


def standardisation(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (c,) float32, per channel of (n, c, t, h, w)."""
    statistics = channel_statistics(mean)
    std = np.sqrt(np.array(statistics["squares"]) / max(statistics["count"], 1))
    return torch.tensor(statistics["mean"]).float(), torch.from_numpy(np.maximum(std, MIN_STD)).float()


def channel_statistics(mean: Tensor) -> dict[str, Any]:
    """Count, mean and sum of squared deviations per channel of (n, c, t, h, w), in fp64.

    With NumPy, whose sums do not depend on the number of threads.
    """
    values = rearrange(mean, "n c t h w -> c (n t h w)").double().numpy()
    count = values.shape[1]
    centre = values.mean(axis=1) if count else np.zeros(len(values))
    squares = np.square(values - centre[:, None]).sum(axis=1)
    return {"count": count, "mean": centre.tolist(), "squares": squares.tolist()}


def merge_statistics(statistics: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of all shards together (Chan, Golub, LeVeque 1979), in shard order."""
    count = 0
    mean = torch.zeros(len(statistics[0]["mean"]), dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for shard in statistics:
        if not shard["count"]:
            continue
        total, offset = count + shard["count"], torch.tensor(shard["mean"], dtype=torch.float64) - mean
        squares += torch.tensor(shard["squares"], dtype=torch.float64) + offset**2 * count * shard["count"] / total
        mean += offset * shard["count"] / total
        count = total
    return mean, (squares / count).sqrt() if count else torch.ones_like(mean)


def commit(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent, also after a power cut.

    Raises:
        ValueError: it cannot be written, as on a full disk; what was there before stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ValueError(
            f"{path} cannot be written ({error.strerror}): free space there, or choose another run.root=; the same "
            "command goes on"
        ) from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with a checksum of itself, which `read_signed` compares."""
    plain = json.loads(json.dumps(content))
    return {**plain, CHECKSUM: hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def read_signed(path: Path) -> dict[str, Any]:
    """What `signed` made; ValueError where a single character of it has changed, or it is gone."""
    content = read_json(path)
    checksum = content.pop(CHECKSUM, None)
    if checksum not in (None, signed(content)[CHECKSUM]):  # caches of before have none
        raise ValueError(f"{path} is damaged (its checksum differs); {REMAKE}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """ValueError for a file that is damaged or gone."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); {REMAKE}") from error
