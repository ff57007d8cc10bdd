"""The latent cache: posterior moments or means of every clip, with statistics, labels and provenance, for reading.

Latents are whitened when they are read. Shards are mapped into memory: a random clip costs one copy of its values.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.data.clip_dataset import epoch_order
from pipelines.data.latent_shard import BYTES_PER_VALUE, MEANS_FP16, REMAKE, read_signed, sha256, shard_name
from pipelines.data.prefetch import prefetched

STORED_FP16 = ("mean", "scale", "offset")
_POSTERIOR = 3  # first word of the seeds of draws from the posterior; clip_dataset.py has 1 and 2


class LatentCache:
    """A finished cache, read through memory maps; nothing is copied before it is asked for."""

    def __init__(self, folder: Path, verify: bool = True) -> None:
        """Opens a cache.

        Args:
            folder: what LatentCacheWriter wrote.
            verify: compare the checksum of every shard now, which reads the whole cache; else each one's size now, and
                its checksum when it is first read from.

        Raises:
            ValueError: there is no finished cache, or a shard is missing or damaged; names it and the remedy.
        """
        self.folder = Path(folder)
        if not (self.folder / "metadata.json").exists():
            raise ValueError(f"{self.folder} holds no finished latent cache; run python pipelines/cache_latents.py")
        metadata = read_signed(self.folder / "metadata.json")
        if metadata.get("storage") not in BYTES_PER_VALUE:
            raise ValueError(f"the latent cache {self.folder} was written by another version; {REMAKE}")
        self.parts: dict[str, dict[str, Any]] = metadata["parts"]  # {part: {"shape", "mean", "std", "rgb"}}
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.clips: list[dict[str, Any]] = metadata["clips"]
        self.provenance: dict[str, Any] = metadata["provenance"]
        self.clips_per_shard: int = metadata["clips_per_shard"]
        self.storage: str = metadata["storage"]
        self.open_loop: bool = metadata["open_loop"]
        self.labels = torch.tensor([clip["label"] for clip in self.clips], dtype=torch.int64)  # -1 = no class
        self._unverified: dict[int, str] = {}  # shard -> checksum
        for number, shard in enumerate(metadata["shards"]):
            file = self.folder / shard["file"]
            if not file.exists():
                raise ValueError(f"the shard {file} is missing; {REMAKE}")
            if file.stat().st_size != shard["bytes"] or (verify and sha256(file) != shard["sha256"]):
                raise ValueError(f"the shard {file} is damaged; {REMAKE}")
            if not verify:
                self._unverified[number] = shard["sha256"]
        self._mapped: dict[int, dict[str, np.ndarray]] = {}

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
        latents = {part: self._means(part, positions) for part in self.parts}
        return self._whiten_in_place(latents) if whiten else latents

    def moments(self, positions: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """{part: (mean, logvar)}, each (b, c, t, h, w) float32; ValueError where only means are stored."""
        if self.storage == MEANS_FP16:
            raise ValueError(f"{self.folder} holds means only; make it with cache.storage=moments_fp32 to have moments")
        return {part: (self._means(part, positions), self._read(f"{part}.logvar", positions)) for part in self.parts}

    def sample(self, positions: Sequence[int], keys: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """One draw from the posterior per clip, {part: (b, c, t, h, w)}, whitened with the statistics of the means.

        Args:
            positions: clips.
            keys: per clip, the non-negative integers that its noise depends on, and nothing else does.

        Raises:
            ValueError: the residual was encoded against what the means decode to and would not fit a draw; or there
                are no variances.
        """
        self.require_sampling()
        latents = {}
        for number, (part, (mean, logvar)) in enumerate(self.moments(positions).items()):
            for row, key in enumerate(keys):
                noise = np.random.default_rng([_POSTERIOR, *key, number]).standard_normal(mean.shape[1:], np.float32)
                mean[row] += torch.exp(0.5 * logvar[row]) * torch.from_numpy(noise)  # DeCo-VAE Eq. 2
            latents[part] = mean
        return self._whiten_in_place(latents)

    def require_sampling(self) -> None:
        """Raise ValueError unless `sample` is possible."""
        if not self.open_loop:
            raise ValueError(
                f"the residual in {self.folder} belongs to the posterior's means (closed loop), so latents cannot be "
                "sampled from cached moments: leave latte.sample_posterior off, or train an open-loop autoencoder"
            )
        if self.storage == MEANS_FP16:
            raise ValueError(f"{self.folder} holds means only; make it with cache.storage=moments_fp32 to sample")

    def _whiten_in_place(self, latents: dict[str, Tensor]) -> dict[str, Tensor]:
        """(z - mean) / std per channel; samples go back by the model's copy of the same statistics."""
        for part, z in latents.items():
            mean, std = (torch.tensor(self.parts[part][name], dtype=z.dtype) for name in ("mean", "std"))
            z.sub_(rearrange(mean, "c -> c 1 1 1")).div_(rearrange(std, "c -> c 1 1 1"))
        return latents

    def batches(
        self,
        split: str,
        seed: int,
        first_step: int,
        global_batch_size: int,
        rank: int = 0,
        world: int = 1,
        sample: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """This rank's share of every global batch from first_step on, without end; each epoch is a seeded permutation.

        Every batch is a pure function of (seed, step, place in the global batch): a run may go on anywhere, with any
        number of processes. A background thread prepares the next batches.

        Args:
            sample: draw from the posterior, another draw in every epoch, instead of its mean; see `sample`.

        Yields:
            {"latents": {part: (b, c, t, h, w)} whitened, "label": (b,) int64, "path": [...], "index": [...] in the
            global batch}.

        Raises:
            ValueError: the split is empty, the global batch cannot be shared equally, or a draw is impossible.
        """
        positions, share = np.array(self.split(split), dtype=np.int64), global_batch_size // world
        if not len(positions) or global_batch_size % world:
            raise ValueError(
                f"got {len(positions)} cached {split} clips and global_batch_size {global_batch_size}, expected at "
                f"least one clip and a multiple of the {world} processes"
            )
        if sample:
            self.require_sampling()
        indices = np.arange(rank * share, (rank + 1) * share)

        def prepare() -> Iterator[dict[str, Any]]:
            step = first_step
            while True:
                chosen = positions[places_of_step(seed, step, global_batch_size, indices, len(positions))].tolist()
                keys = [(seed, step, index) for index in indices.tolist()]
                yield {
                    "latents": self.sample(chosen, keys) if sample else self.latents(chosen),
                    "label": self.labels[chosen],
                    "path": [self.clips[i]["path"] for i in chosen],
                    "index": indices.tolist(),
                }
                step += 1

        return prefetched(prepare())

    def _means(self, part: str, positions: Sequence[int]) -> Tensor:
        if self.storage != MEANS_FP16:
            return self._read(f"{part}.mean", positions)
        means = torch.empty(len(positions), *self.parts[part]["shape"])
        for mean, position in zip(means, positions, strict=True):  # clip by clip: it stays in the processor's cache
            number, row = divmod(int(position), self.clips_per_shard)
            stored = {name: torch.from_numpy(self._shard(number)[f"{part}.{name}"]) for name in STORED_FP16}
            scale, offset = (rearrange(stored[name], "c -> c 1 1 1") for name in ("scale", "offset"))
            mean.copy_(stored["mean"][row]).mul_(scale).add_(offset)
        return means

    def _read(self, name: str, positions: Sequence[int]) -> Tensor:
        """The rows of clips in one stored tensor: a copy, (b, ...)."""
        places = [divmod(int(position), self.clips_per_shard) for position in positions]
        rows = [self._shard(number)[name][row] for number, row in places]
        return torch.from_numpy(np.stack(rows) if rows else self._shard(0)[name][:0])

    def _shard(self, number: int) -> dict[str, np.ndarray]:
        """The tensors of a shard by name; their pages are read from the disk when they are touched."""
        if number not in self._mapped:
            file = self.folder / shard_name(number)
            expected = self._unverified.pop(number, None)
            if expected is not None and sha256(file) != expected:
                raise ValueError(f"the shard {file} is damaged; {REMAKE}")
            try:
                with safe_open(file, framework="pt") as shard:
                    self._mapped[number] = {name: shard.get_tensor(name).numpy() for name in shard.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise ValueError(f"the shard {file} cannot be read ({error}); {REMAKE}") from error
        return self._mapped[number]


def places_of_step(seed: int, step: int, global_batch_size: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` clips stand at `indices` of the global batch of a step; every epoch is a permutation of all."""
    epochs, places = np.divmod(step * global_batch_size + indices, count)
    chosen = np.empty_like(places)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        chosen[of_epoch] = epoch_order(seed, int(epoch), count)[places[of_epoch]]
    return chosen


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 or not isinstance(value, str) else text[:12] + "..."
