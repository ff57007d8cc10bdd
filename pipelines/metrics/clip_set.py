"""Clips that are read one by one when a metric asks for them: no metric needs all of them in memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


class ClipSet:
    """Clips with labels: `clips[i]` is (t, h, w, 3) uint8, read anew at every call.

    labels: one per clip, -1 = no class. read: position -> clip; every clip has one shape.
    """

    def __init__(self, labels: Sequence[int], read: Callable[[int], Tensor]) -> None:
        self.labels = torch.tensor(list(labels), dtype=torch.int64)
        self._read = read

    @classmethod
    def of(cls, video_uint8: Tensor, labels: Sequence[int] | Tensor | None = None) -> "ClipSet":
        """Clips that are in memory already: (n, t, h, w, 3) uint8."""
        known = [-1] * len(video_uint8) if labels is None else [int(label) for label in labels]
        return cls(known, lambda position: video_uint8[position])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> Tensor:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self._read(position)

    def stacked(self) -> Tensor:
        """All clips in memory at once: (n, t, h, w, 3) uint8, n >= 1."""
        return torch.stack([self[position] for position in range(len(self))])

    def batches(self, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """All clips in order: ((n, t, h, w, 3) uint8, (n,) labels), n <= size."""
        for start in range(0, len(self), size):
            positions = range(start, min(start + size, len(self)))
            yield torch.stack([self[position] for position in positions]), self.labels[start : start + size]

    def subset(self, positions: Sequence[int]) -> "ClipSet":
        """The clips at these positions, in this order."""
        chosen = list(positions)
        return ClipSet([int(self.labels[position]) for position in chosen], lambda i: self[chosen[i]])

    def thinned(self, count: int) -> "ClipSet":
        """At most `count` clips, evenly spaced over all."""
        return self.subset(evenly_spaced(len(self), count))

    def cut(self, num_frames: int) -> "ClipSet":
        """The first `num_frames` frames of every clip."""
        return ClipSet(self.labels.tolist(), lambda position: self[position][:num_frames])


def evenly_spaced(available: int, wanted: int) -> list[int]:
    """`wanted` positions evenly spaced over range(available); all of them where there are fewer."""
    return torch.linspace(0, available - 1, min(wanted, available)).round().long().unique().tolist()
