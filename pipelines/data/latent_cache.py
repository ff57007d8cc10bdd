"""The latent cache: posterior moments of every clip in safetensors shards, with statistics, labels and provenance.

Shard k holds clips [k n, (k + 1) n) whatever process wrote it, and is committed by a record with its checksum, so a
killed stage goes on where it was and the finished cache has the same bytes however often that happened.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipelines.data.channel_statistics import channel_statistics, merge_statistics
from pipelines.data.clip_dataset import epoch_order

REMAKE = "remove that folder and run python pipelines/cache_latents.py with the same configuration"
MIN_STD = 1e-6  # of a channel that never changes: whitening turns it into zeros, not into infinities
Moments = Mapping[str, tuple[Tensor, Tensor]]  # {part: (mean, logvar)}, each (b, c, t, h, w)


class LatentCacheWriter:
    """Writes a cache shard by shard: `for k in writer.missing(): writer.write(k, moments of writer.clips_of(k))`."""

    def __init__(
        self,
        folder: Path,
        clips: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
        provenance: Mapping[str, Any],
        clips_per_shard: int = 128,
    ) -> None:
        """Begins a cache or goes on with one.

        Args:
            folder: where the cache stands.
            clips: {"path", "label", "split", "start"} of every clip, in order.
            classes: class names.
            provenance: {"vae", "index", "preprocessing"}: what the cache depends on.
            clips_per_shard: n above.

        Raises:
            ValueError: `folder` holds a cache of other clips or of another provenance.
        """
        self.folder, self.clips, self.clips_per_shard = folder, [dict(clip) for clip in clips], clips_per_shard
        plan = {
            "provenance": dict(provenance),
            "classes": list(classes),
            "clips_per_shard": clips_per_shard,
            "clips": self.clips,
        }
        self.plan = json.loads(json.dumps(plan))  # tuples as lists: as it will be read
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "plan.json").exists():
            known = _read_json(folder / "plan.json")
            if changed := [name for name in plan if known.get(name) != self.plan[name]]:
                raise ValueError(f"{folder} holds a cache made with other {' and '.join(changed)}; {REMAKE}")
        else:
            _commit(folder / "plan.json", json.dumps(self.plan).encode())

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    def clips_of(self, shard: int) -> range:
        """Positions of the clips in a shard."""
        start = shard * self.clips_per_shard
        return range(start, min(start + self.clips_per_shard, len(self.clips)))

    def missing(self, rank: int = 0, world: int = 1) -> list[int]:
        """Shards that this rank still has to write: absent, partly written or damaged."""
        return [k for k in range(rank, self.num_shards, world) if not self._is_complete(k)]

    def _is_complete(self, shard: int) -> bool:
        file, record = self.folder / shard_name(shard), self.folder / record_name(shard)
        return file.exists() and record.exists() and _read_json(record)["sha256"] == _sha256(file)

    def write(self, shard: int, moments: Moments) -> None:
        """Commits one shard.

        Args:
            shard: its number.
            moments: {part: (mean, logvar)}, each (n, c, t, h, w) in the order of `clips_of(shard)`.

        Raises:
            ValueError: a moment is not finite; names the clip.
        """
        positions = self.clips_of(shard)
        tensors: dict[str, Tensor] = {}
        for part, pair in moments.items():
            for name, value in zip(("mean", "logvar"), pair, strict=True):
                assert len(value) == len(positions), f"shard {shard} has {len(positions)} clips, got {len(value)}"
                finite = rearrange(value, "b ... -> b (...)").isfinite().all(dim=1)
                if not finite.all():
                    path = self.clips[positions[int((~finite).nonzero()[0])]]["path"]
                    raise ValueError(f"the VAE's {name} of {part} for {path} is not finite; train the VAE again")
                tensors[f"{part}.{name}"] = value.detach().float().cpu().contiguous()
        of_training = torch.tensor([self.clips[i]["split"] == "train" for i in positions])
        record = {
            "statistics": {part: channel_statistics(tensors[f"{part}.mean"][of_training]) for part in moments},
            "shapes": {part: list(tensors[f"{part}.mean"].shape[1:]) for part in moments},
        }
        content = save(tensors)
        record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _commit(self.folder / shard_name(shard), content)
        _commit(self.folder / record_name(shard), json.dumps(record).encode())  # last: this commits the shard

    def finish(self) -> "LatentCache":
        """Writes metadata.json with the statistics of the training split; every shard must be there."""
        assert not (missing := self.missing()), f"shards {missing} are not written yet"
        records = [_read_json(self.folder / record_name(k)) for k in range(self.num_shards)]
        parts = {}
        for part, shape in records[0]["shapes"].items():
            mean, std = merge_statistics([record["statistics"][part] for record in records])
            parts[part] = {"shape": shape, "mean": mean.tolist(), "std": std.clamp(min=MIN_STD).tolist()}
        shards = [{"file": shard_name(k), **{n: r[n] for n in ("bytes", "sha256")}} for k, r in enumerate(records)]
        metadata = {"parts": parts, "shards": shards, **self.plan}
        _commit(self.folder / "metadata.json", json.dumps(metadata, indent=1).encode())
        for part in self.folder.glob(".*.part"):  # of processes that were killed
            part.unlink()
        return LatentCache(self.folder, verify=False)


class LatentCache:
    """A finished cache, read through memory maps; nothing is copied before it is asked for."""

    def __init__(self, folder: Path, verify: bool = True) -> None:
        """Opens a cache.

        Args:
            folder: what LatentCacheWriter wrote.
            verify: compare the checksum of every shard, not only its size; reads the whole cache.

        Raises:
            ValueError: there is no finished cache, or a shard is missing or damaged; names it and the remedy.
        """
        self.folder = Path(folder)
        if not (self.folder / "metadata.json").exists():
            raise ValueError(f"{self.folder} holds no finished latent cache; run python pipelines/cache_latents.py")
        metadata = _read_json(self.folder / "metadata.json")
        self.parts: dict[str, dict[str, list]] = metadata["parts"]
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.clips: list[dict[str, Any]] = metadata["clips"]
        self.provenance: dict[str, Any] = metadata["provenance"]
        self.clips_per_shard: int = metadata["clips_per_shard"]
        self.labels = torch.tensor([clip["label"] for clip in self.clips], dtype=torch.int64)  # -1 = no class
        for shard in metadata["shards"]:
            file = self.folder / shard["file"]
            if not file.exists():
                raise ValueError(f"the shard {file} is missing; {REMAKE}")
            if file.stat().st_size != shard["bytes"] or (verify and _sha256(file) != shard["sha256"]):
                raise ValueError(f"the shard {file} is damaged; {REMAKE}")
        self._open_shards: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def check(self, **expected: str | Mapping[str, Any]) -> None:
        """Refuses a cache that was made from something else: check(vae=hash, index=fingerprint, preprocessing=...).

        Raises:
            ValueError: names what differs and the remedy.
        """
        for name, value in expected.items():
            known = self.provenance.get(name)
            if known != json.loads(json.dumps(value)):
                raise ValueError(
                    f"the latent cache {self.folder} was made from another {name} (got {_short(known)}, expected "
                    f"{_short(value)}); {REMAKE}"
                )

    def split(self, name: str) -> list[int]:
        """Positions of the clips of "train" or "validation"."""
        return [i for i, clip in enumerate(self.clips) if clip["split"] == name]

    def latents(self, positions: Sequence[int], whiten: bool = True) -> dict[str, Tensor]:
        """Posterior means, {part: (b, c, t, h, w)} float32; whitened per channel with the training statistics."""
        latents = {part: mean for part, (mean, _) in self.moments(positions).items()}
        return self.whiten(latents) if whiten else latents

    def moments(self, positions: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """{part: (mean, logvar)}, each (b, c, t, h, w) float32."""
        moments = {}
        for part in self.parts:
            mean, logvar = ([self._read(int(i), f"{part}.{name}") for i in positions] for name in ("mean", "logvar"))
            moments[part] = (torch.cat(mean), torch.cat(logvar))
        return moments

    def whiten(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(z - mean) / std per channel, {part: (b, c, t, h, w)}."""
        per_channel = self._channels
        return {part: (z - per_channel(part, "mean", z)) / per_channel(part, "std", z) for part, z in latents.items()}

    def unwhiten(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of `whiten`."""
        per_channel = self._channels
        return {part: z * per_channel(part, "std", z) + per_channel(part, "mean", z) for part, z in latents.items()}

    def batches(
        self, split: str, seed: int, first_step: int, global_batch_size: int, rank: int = 0, world: int = 1
    ) -> Iterator[dict[str, Any]]:
        """This rank's share of every global batch from first_step on, without end; each epoch is a seeded permutation.

        Yields:
            {"latents": {part: (b, c, t, h, w)} whitened, "label": (b,) int64, "path": [...], "index": [...] in the
            global batch}.

        Raises:
            ValueError: the split is empty or the global batch cannot be shared equally.
        """
        positions, share = self.split(split), global_batch_size // world
        if not positions or global_batch_size % world:
            raise ValueError(
                f"got {len(positions)} cached {split} clips and global_batch_size {global_batch_size}, expected at "
                f"least one clip and a multiple of the {world} processes"
            )
        step, indices = first_step, range(rank * share, (rank + 1) * share)
        while True:
            chosen = []
            for index in indices:
                epoch, place = divmod(step * global_batch_size + index, len(positions))
                chosen.append(positions[epoch_order(seed, epoch, len(positions))[place]])
            paths = [self.clips[i]["path"] for i in chosen]
            yield {"latents": self.latents(chosen), "label": self.labels[chosen], "path": paths, "index": list(indices)}
            step += 1

    def _read(self, position: int, name: str) -> Tensor:
        shard, row = divmod(position, self.clips_per_shard)
        try:
            if shard not in self._open_shards:
                self._open_shards[shard] = safe_open(self.folder / shard_name(shard), framework="pt")
            return self._open_shards[shard].get_slice(name)[row : row + 1]
        except (OSError, SafetensorError) as error:
            file = self.folder / shard_name(shard)
            raise ValueError(f"the shard {file} cannot be read ({error}); {REMAKE}") from error

    def _channels(self, part: str, name: str, like: Tensor) -> Tensor:
        return rearrange(torch.tensor(self.parts[part][name], dtype=like.dtype, device=like.device), "c -> c 1 1 1")


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"


def record_name(shard: int) -> str:
    return f"shard-{shard:05d}.json"


def _commit(path: Path, content: bytes) -> None:
    """Writes a file that is either whole or absent, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); {REMAKE}") from error


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 or not isinstance(value, str) else text[:12] + "..."
