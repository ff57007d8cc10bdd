"""PSNR, SSIM, LPIPS of reconstructed videos under named protocols: what pixels go through before they are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor, nn

from pipelines.metrics.frame_quality import SSIM_WINDOW, frame_psnr, ssim
from pipelines.metrics.lpips_distance import SMALLEST_FOR_LPIPS, lpips_distance
from pipelines.metrics.rfvd import ClipFeatures


@dataclass(frozen=True)
class ReconstructionProtocol:
    """How both sides reach the scores. A codec is a name of pipelines.data.video_file.VIDEO_CODECS; "" = none."""

    name: str
    original_codec: str = ""
    reconstruction_codec: str = ""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # uint8 pixels, never written: what the autoencoder does, and nothing else.
        ReconstructionProtocol("in_memory"),
        # LeanVAE and IV-VAE score what they read back from H.264 files of crf 10.
        ReconstructionProtocol("leanvae", reconstruction_codec="h264-crf10"),
        # WF-VAE and Open-Sora-Plan write both sides with OpenCV's "mp4v" and score what they read back: the codec
        # removes noise from the reference, too.
        ReconstructionProtocol("wfvae", original_codec="mp4v", reconstruction_codec="mp4v"),
    )
}


def find_protocols(names: Sequence[str]) -> list[ReconstructionProtocol]:
    """The protocols called `names`; ValueError naming the known ones when there is none of that name."""
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names:
        raise ValueError(f"reconstruct.protocols is {list(names)}, but must name one or more of {', '.join(PROTOCOLS)}")
    return [PROTOCOLS[name] for name in dict.fromkeys(names)]


class VideoScorer:
    """Scores of one video that comes piece by piece: means over all its frames, frame 0 included, as papers print."""

    def __init__(
        self,
        lpips: nn.Module | None = None,
        original_clips: ClipFeatures | None = None,
        reconstruction_clips: ClipFeatures | None = None,
    ) -> None:
        """lpips: from `load_lpips`, or None for no LPIPS; *_clips: gather the I3D features of both sides."""
        self.lpips = lpips
        self.clips = (original_clips, reconstruction_clips)
        self.values: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}  # one per frame

    def add(self, original_uint8: Tensor, reconstruction_uint8: Tensor) -> None:
        """Both: (t, h, w, 3) uint8, the next frames of the video."""
        frames = [video.unsqueeze(1) for video in (original_uint8, reconstruction_uint8)]  # (t, 1, h, w, 3)
        smallest = min(original_uint8.shape[1:3])
        self.values["psnr"] += frame_psnr(*frames).flatten().tolist()
        if smallest >= SSIM_WINDOW:
            self.values["ssim"] += ssim(*frames).tolist()
        if self.lpips is not None and smallest >= SMALLEST_FOR_LPIPS:
            self.values["lpips"] += lpips_distance(self.lpips, *frames).tolist()
        for clips, video in zip(self.clips, (original_uint8, reconstruction_uint8), strict=True):
            if clips is not None:
                clips.add(video)

    def scores(self) -> dict[str, float | None]:
        """psnr (dB: the mean of the frames' PSNR), ssim, lpips; None for what was not measured."""
        return {name: fmean(values) if values else None for name, values in self.values.items()}
