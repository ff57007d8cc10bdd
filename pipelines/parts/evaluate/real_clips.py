"""The real clips of a protocol, read from the files of the data set as it says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipelines.data.clip_dataset import centre_square
from pipelines.data.clip_index import ClipEntry, ClipIndex
from pipelines.data.video_file import read_video
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.codec_round_trip import resize_and_crop
from pipelines.metrics.fvd_protocols import FvdProtocol, real_frame_indices
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.run.hashes import digest


@dataclass(frozen=True)
class RealFiles:
    """The files of a protocol's split that are long enough, sorted by name: what its positions count."""

    protocol: FvdProtocol
    root: Path
    entries: tuple[ClipEntry, ...]
    resolution: int
    training_stride: int
    seed: int

    @classmethod
    def of(cls, config: Experiment, index: ClipIndex, protocol: FvdProtocol) -> "RealFiles":
        """Of the data set of a run; files too short for the protocol's stride are discarded, as it says."""
        entries = index.entries if protocol.real_split == "all" else index.split(protocol.real_split)
        stride, seed = config.data.frame_stride, config.run.seed
        kept = [entry for entry in entries if real_frame_indices(protocol, entry.num_frames, stride, 0, seed)]
        in_order = sorted(kept, key=lambda entry: (Path(entry.path).name, entry.path))
        return cls(protocol, index.root, tuple(in_order), config.data.resolution, stride, seed)

    def class_counts(self) -> dict[int, int] | None:
        """Files per class, None where there are no classes."""
        counts = Counter(entry.label for entry in self.entries)
        return None if -1 in counts else dict(counts)

    def clips(self, positions: Sequence[int]) -> ClipSet:
        """Clips (t, resolution, resolution, 3) uint8 of the files at `positions`, before the protocol's codecs."""
        chosen = list(positions)
        return ClipSet([self.entries[p].label for p in chosen], lambda i: self._read(chosen[i]))

    def _read(self, position: int) -> Tensor:
        entry = self.entries[position]
        frames = real_frame_indices(self.protocol, entry.num_frames, self.training_stride, position, self.seed)
        clip = read_video(self.root / entry.path, frames, entry.reader)
        if self.protocol.resize == FvdProtocol.resize:  # the very clips that a generator is made of
            return centre_square(clip, self.resolution)
        return resize_and_crop(clip, self.resolution, self.protocol.resize)

    def content(self, positions: Sequence[int]) -> str:
        """Digest of all that decides about these clips, file contents included: what caches are called after."""
        protocol = self.protocol
        reading = [protocol.num_frames, protocol.real_start, protocol.real_frame_stride or self.training_stride]
        reading += [protocol.resize + " uint8" * (protocol.resize == FvdProtocol.resize), self.resolution, self.seed]
        files = [[position, self.entries[position].sha256] for position in positions]
        return digest(files, reading)


def network_facts(extractor: FeatureExtractor) -> list[str]:
    """What decides about the features of a clip."""
    return [extractor.weights_hash, extractor.precision]
