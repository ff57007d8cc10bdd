"""Writes a latent cache shard by shard, from any number of processes and after any kill with the same bytes.

Shard k holds clips [k n, (k + 1) n) whatever process wrote it. It is committed by a record with its checksum, which is
written last; what lacks one is written again.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pipelines.data.latent_cache import LatentCache
from pipelines.data.latent_rgb import KINDS, cross_moments, fit
from pipelines.data.latent_shard import (
    BYTES_PER_VALUE,
    MEANS_FP16,
    MIN_STD,
    MOMENTS_FP32,
    REMAKE,
    Moments,
    channel_statistics,
    commit,
    merge_statistics,
    read_json,
    read_signed,
    record_name,
    sha256,
    shard_name,
    shard_tensors,
    signed,
)

PROBE_CLIPS = 16  # training clips of each shard that the latent-to-RGB probe is fitted to


class LatentCacheWriter:
    """`for k in writer.missing(): writer.write(k, moments of writer.clips_of(k))`, then `writer.finish()`."""

    def __init__(
        self,
        folder: Path,
        clips: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
        provenance: Mapping[str, Any],
        clips_per_shard: int = 128,
        storage: str = MOMENTS_FP32,
        open_loop: bool = False,
    ) -> None:
        """Begins a cache or goes on with one.

        Args:
            folder: where the cache stands.
            clips: {"path", "label", "split", "start", ...} of every clip, in order.
            classes: class names.
            provenance: {"vae", "index", "preprocessing"}: what the cache depends on.
            clips_per_shard: n above.
            storage: moments_fp32 or means_fp16, see latent_shard.py.
            open_loop: the moments of a part do not depend on the latents of another, so that they may be sampled.

        Raises:
            ValueError: `folder` holds a cache of other clips or of another provenance; or no such storage.
        """
        if storage not in BYTES_PER_VALUE:
            raise ValueError(f"cache.storage is {storage!r}, but must be {' or '.join(BYTES_PER_VALUE)}")
        self.folder, self.clips, self.clips_per_shard = folder, [dict(clip) for clip in clips], clips_per_shard
        self.storage = storage
        plan = {
            "provenance": dict(provenance),
            "classes": list(classes),
            "clips_per_shard": clips_per_shard,
            "storage": storage,
            "open_loop": open_loop,
            "clips": self.clips,
        }
        content = json.dumps(plan)
        self.plan = json.loads(content)  # tuples as lists: as it will be read
        self.plan_sha256 = hashlib.sha256(content.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "plan.json").exists():
            known = read_json(folder / "plan.json")
            if changed := [name for name in plan if known.get(name) != self.plan[name]]:
                raise ValueError(f"{folder} holds a cache made with other {' and '.join(changed)}; {REMAKE}")
        else:
            commit(folder / "plan.json", content.encode())

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    def clips_of(self, shard: int) -> range:
        """Positions of the clips in a shard."""
        start = shard * self.clips_per_shard
        return range(start, min(start + self.clips_per_shard, len(self.clips)))

    def missing(self, worker: int = 0, num_workers: int = 1, verify: bool = True) -> list[int]:
        """Shards k = worker, worker + num_workers, ... that are still to be written: absent, partly written or damaged.

        verify: compare checksums, which reads the shards; otherwise their sizes.
        """
        return [k for k in range(worker, self.num_shards, num_workers) if not self._is_complete(k, verify)]

    def _is_complete(self, shard: int, verify: bool) -> bool:
        file, record = self.folder / shard_name(shard), self.folder / record_name(shard)
        if not (file.exists() and record.exists()):
            return False
        try:
            known = read_signed(record)
        except ValueError:  # damaged: made again, with its shard
            return False
        if known["plan"] != self.plan_sha256 or known["bytes"] != file.stat().st_size:
            return False
        return not verify or known["sha256"] == sha256(file)

    def require_space(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Compare the free space with what the missing shards need, from the shape (c, t, h, w) of every part.

        Raises:
            ValueError: they would not fit; says how much is needed and how much there is.
        """
        num_clips = sum(
            len(self.clips_of(k)) for k in range(self.num_shards) if not (self.folder / record_name(k)).exists()
        )
        num_values = num_clips * sum(prod(shape) for shape in shapes.values())
        needed, free = num_values * BYTES_PER_VALUE[self.storage], shutil.disk_usage(self.folder).free
        if needed > free:
            half = num_values * BYTES_PER_VALUE[MEANS_FP16]
            smaller = f"cache.storage={MEANS_FP16} ({_gigabytes(half)}), " if self.storage != MEANS_FP16 else ""
            raise ValueError(
                f"the latents of {num_clips} clips need {_gigabytes(needed)} in {self.folder}, but {_gigabytes(free)} "
                f"are free: free space, or choose {smaller}fewer cache.clips_per_video or another run.root="
            )

    def write(self, shard: int, moments: Moments, rgb: Tensor | None = None) -> None:
        """Commits one shard.

        Args:
            shard: its number.
            moments: {part: (mean, logvar)}, each (n, c, t, h, w) in the order of `clips_of(shard)`.
            rgb: (n, 3, t', h, w) in [-1, 1], the clips as `latent_rgb.small_frames` shows them; None = no probe.

        Raises:
            ValueError: a moment is not finite; names the clip. Or the disk is full.
        """
        positions = self.clips_of(shard)
        for part, pair in moments.items():
            for name, value in zip(("mean", "logvar"), pair, strict=True):
                assert len(value) == len(positions), f"shard {shard} has {len(positions)} clips, got {len(value)}"
                finite = rearrange(value, "b ... -> b (...)").isfinite().all(dim=1)
                if not finite.all():
                    path = self.clips[positions[int((~finite).nonzero()[0])]]["path"]
                    raise ValueError(f"the VAE's {name} of {part} for {path} is not finite; train the VAE again")
        of_training = torch.tensor([self.clips[i]["split"] == "train" for i in positions])
        means = {part: mean for part, (mean, _) in moments.items()}
        tensors = shard_tensors(moments, self.storage)
        if rgb is not None:
            chosen = of_training.nonzero()[:PROBE_CLIPS, 0]
            sums = cross_moments({part: mean[chosen] for part, mean in means.items()}, rgb[chosen])
            tensors |= {f"rgb_probe.{kind}": sums[kind] for kind in KINDS}
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        record = {
            "plan": self.plan_sha256,
            "statistics": {part: channel_statistics(mean[of_training]) for part, mean in means.items()},
            "shapes": {part: list(mean.shape[1:]) for part, mean in means.items()},
            "num_times": 0 if rgb is None else rgb.shape[2],
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        commit(self.folder / shard_name(shard), content)
        commit(self.folder / record_name(shard), json.dumps(signed(record)).encode())  # last: this commits the shard

    def finish(self) -> LatentCache:
        """Writes metadata.json with the statistics of the training split and the latent-to-RGB probe.

        Every shard must be there; the sizes are compared, the checksums were when `missing` was asked.
        """
        assert not (missing := self.missing(verify=False)), f"shards {missing} are not written yet"
        records = [read_signed(self.folder / record_name(k)) for k in range(self.num_shards)]
        parts: dict[str, dict[str, Any]] = {}
        for part, shape in records[0]["shapes"].items():
            mean, std = merge_statistics([record["statistics"][part] for record in records])
            parts[part] = {"shape": shape, "mean": mean.tolist(), "std": std.clamp(min=MIN_STD).tolist()}
        if num_times := records[0]["num_times"]:
            for part, probe in fit(self._probe_sums(), parts, num_times).items():
                parts[part]["rgb"] = probe
        shards = [{"file": shard_name(k), **{n: r[n] for n in ("bytes", "sha256")}} for k, r in enumerate(records)]
        metadata = {"parts": parts, "shards": shards, **self.plan}
        commit(self.folder / "metadata.json", json.dumps(signed(metadata), indent=1).encode())
        for left_over in self.folder.glob(".*.part"):  # of processes that were killed
            left_over.unlink()
        return LatentCache(self.folder, verify=False)

    def _probe_sums(self) -> dict[str, Tensor]:
        """The shards' sums added up, always in their order."""
        total: dict[str, Tensor] = {}
        for shard in range(self.num_shards):
            with safe_open(self.folder / shard_name(shard), framework="pt") as file:
                for kind in KINDS:
                    sums = file.get_tensor(f"rgb_probe.{kind}")
                    total[kind] = total[kind] + sums if kind in total else sums.clone()
        return total


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
