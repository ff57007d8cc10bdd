"""Features of many clips in small files, each written once and whole: what a kill, or several processes, share.

FOLDER/00000.safetensors holds the features (n, d) of clips 0 .. CHUNK - 1, and so on. Which clips stand in a file does
not depend on the number of processes, so neither does any bit of what is computed from them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.metrics.clip_set import ClipSet
from pipelines.run.live_line import told
from pipelines.run.ranks import wait

CHUNK = 16  # clips per file: minutes of work at most, even on a CPU


class FeatureFiles:
    """The features of a list of clips, as far as they have been computed.

    folder: of these clips under these settings and no others; its name holds a digest of both. num_clips: of the list.
    """

    def __init__(self, folder: Path, num_clips: int) -> None:
        self.folder, self.num_clips = folder, num_clips

    def missing(self) -> list[int]:
        """Numbers of the files that are not there yet."""
        return [number for number in range(-(-self.num_clips // CHUNK)) if not self._file(number).exists()]

    def fill(
        self,
        clips: ClipSet,
        extract: Callable[[Tensor], Tensor],
        batch_size: int,
        name: str,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Compute what is missing, this process its share of it; returns when all processes have done theirs.

        extract: (n, t, h, w, 3) uint8 -> (n, d), n <= batch_size. Rank 0 tells how far it is, under `name`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        own = [number for number in self.missing() if number % num_ranks == rank]
        for number in told(own, name, "part", len(own), is_silent=rank > 0):
            positions = range(number * CHUNK, min((number + 1) * CHUNK, self.num_clips))
            features = [extract(batch) for batch, _ in clips.subset(positions).batches(batch_size)]
            self._write(number, torch.cat(features))
        wait()

    def load(self) -> Tensor:
        """(num_clips, d) fp32, in the order of the clips; ValueError for a damaged file."""
        parts = []
        for number in range(-(-self.num_clips // CHUNK)):
            try:
                with safe_open(self._file(number), "pt") as file:
                    parts.append(file.get_tensor("features"))
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"{self._file(number)} cannot be read ({error}): remove it and start the same command again"
                ) from error
        features = torch.cat(parts)
        assert len(features) == self.num_clips, "every clip is there exactly once"
        return features

    def _write(self, number: int, features: Tensor) -> None:
        part = self.folder / f".{number:05d}-{os.getpid()}"
        save_file({"features": features.contiguous()}, part)
        os.replace(part, self._file(number))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"
