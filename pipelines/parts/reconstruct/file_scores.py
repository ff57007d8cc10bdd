"""Scores of one reconstructed file: under each protocol, after its codecs where it has some, and by component."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from pipelines.data.frame_reader import frame_chunks
from pipelines.data.video_file import VideoWriter, to_uint8
from pipelines.data.video_sources import VideoSource
from pipelines.metrics.components import FIRST_FRAME, SCORED_COMPONENTS, score_components
from pipelines.metrics.frame_quality import frame_psnr
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.reconstruction_protocols import ReconstructionProtocol, VideoScorer
from pipelines.metrics.rfvd import ClipFeatures, clip_starts

COMPONENT_NAMES = ("psnr_keyframe", "psnr_copy_first_frame", "psnr_warp_only", "psnr_warp_decoded")


@dataclass(frozen=True)
class Scoring:
    """What every video of a call is scored with, loaded once."""

    protocols: Sequence[ReconstructionProtocol]
    lpips: nn.Module | None  # None where its weights are absent
    extractor: FeatureExtractor | None  # None where no rFVD is wanted
    clip_frames: int  # frames of the clips whose features are compared
    clips_per_file: int

    def scorer(self, num_frames: int) -> VideoScorer:
        """For one video of so many frames."""
        if self.extractor is None:
            return VideoScorer(self.lpips)
        starts = clip_starts(num_frames, self.clip_frames, self.clips_per_file)
        return VideoScorer(self.lpips, *(ClipFeatures(self.extractor, starts, self.clip_frames) for _ in range(2)))


class ProtocolRun:
    """One video under one protocol: frames come piece by piece and are scored, after its codecs where it has some."""

    def __init__(self, protocol: ReconstructionProtocol, scoring: Scoring, source: VideoSource, folder: Path) -> None:
        """folder: where files stand while the protocol's codecs are at work."""
        self.scorer, self.source = scoring.scorer(source.num_frames), source
        codecs = {"original": protocol.original_codec, "reconstruction": protocol.reconstruction_codec}
        self.codecs = {side: codec for side, codec in codecs.items() if codec}
        self.paths = {side: folder / f"{protocol.name}-{side}.mp4" for side in self.codecs}
        self.writers: dict[str, VideoWriter] = {}

    def open(self, stack: ExitStack) -> "ProtocolRun":
        """Begin to write; `stack` ends it."""
        for side, codec in self.codecs.items():
            self.writers[side] = stack.enter_context(VideoWriter(self.paths[side], self.source.fps, codec))
        return self

    def add(self, original_uint8: Tensor, reconstruction_uint8: Tensor) -> None:
        """Both: (t, h, w, 3) uint8, the next frames of the video."""
        if not self.codecs:
            self.scorer.add(original_uint8, reconstruction_uint8)
        for side, writer in self.writers.items():
            writer.write(original_uint8 if side == "original" else reconstruction_uint8)

    def finish(self, piece_frames: int) -> None:
        """Score what is read back from the files, when the stack has closed them; then remove them."""
        if self.codecs:
            pairs = zip(self._side("original", piece_frames), self._side("reconstruction", piece_frames), strict=True)
            for original, reconstruction in pairs:
                self.scorer.add(original, reconstruction)
            for path in self.paths.values():
                path.unlink()

    def _side(self, side: str, piece_frames: int) -> Iterator[Tensor]:
        if side not in self.codecs:
            yield from self.source.pieces(piece_frames)
            return
        for frames in frame_chunks(self.paths[side], range(self.source.num_frames), "av", piece_frames):
            yield torch.from_numpy(frames)[:, : self.source.height, : self.source.width]  # a codec wants even sizes


class ComponentScores:
    """PSNR of components frame by frame, on uint8, and how far the decoded flow is from the true one."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {name: [] for name in (*COMPONENT_NAMES, "flow_error_pixels")}

    def add(self, components: Mapping[str, Tensor], has_keyframe: bool) -> None:
        """components: (1, 3, t, h, w) each; has_keyframe: frame 0 of these is a keyframe, the others never are."""
        shown = {name: to_uint8(x) for name, x in components.items() if name in SCORED_COMPONENTS}
        if "keyframe" in components:
            shown[FIRST_FRAME] = to_uint8(components["keyframe"])
        original = to_uint8(components["original"])
        scores = score_components(shown, original, COMPONENT_NAMES, has_keyframe=has_keyframe, decibel=frame_psnr)
        for name, per_frame in scores.items():
            self.values[name] += per_frame.flatten().tolist()
        if "motion" in components:
            error = (components["decoded_motion"] - components["motion"])[0, :, int(has_keyframe) :]
            error_x, error_y, _ = error.unbind(0)
            self.values["flow_error_pixels"] += torch.hypot(error_x, error_y).mean(dim=(1, 2)).tolist()

    def scores(self) -> dict[str, float | None]:
        """Means over frames; None for what this autoencoder has not."""
        return {name: fmean(values) if values else None for name, values in self.values.items()}
