"""Options of reconstruct: the section `reconstruct`."""

from dataclasses import dataclass, field

from pipelines.metrics.reconstruction_protocols import find_protocols
from vae.keyframe_placement import GopConfig

VIDEO_CODEC = {"side_by_side": "h264-fast", "reconstruction": "h264"}  # of the videos that may be saved
SAVED = (*VIDEO_CODEC, "figure")


@dataclass(frozen=True)
class ReconstructSection:
    """Coding whole video files, and showing and scoring what comes back."""

    input: str = ""  # video file or folder of videos; empty = the held-out files of the run's data set
    vae: str = ""  # run or model folder of the autoencoder; empty = this run's cache.vae, or its train_vae
    resolution: int = 0  # short side that frames are resized to; 0 = the file's own size
    max_frames: int = 0  # frames read per file at most; 0 = all
    gop: GopConfig = field(default_factory=lambda: GopConfig(max_frames=17))  # where keyframes are placed
    chunk_frames: int = 0  # frames coded at once, a multiple of 4; 0 = up to 16, fewer where they are large
    tile_size: int = -1  # pixels: networks see tiles of this size; 0 = whole frames, -1 = 512 for large frames
    protocols: tuple[str, ...] = ("in_memory",)  # how pixels reach the scores: in_memory, leanvae, wfvae (by codecs)
    clip_frames: int = 16  # frames of the clips whose I3D features make rFVD
    clips_per_file: int = 2  # such clips per file at most, spread over it; 0 = no rFVD
    save: tuple[str, ...] = ("side_by_side", "reconstruction", "figure")  # what is written per file
    latent_map: bool = True  # draw PCA and t-SNE of the latents of the files
    compare_with: str = ""  # run or model folder of a second autoencoder, shown beside the first in the latent map
    exchange: tuple[str, ...] = ()  # two video files whose keyframe and motion are exchanged; empty = none
    exchange_frames: int = 33  # frames of the exchanged videos at most

    def __post_init__(self) -> None:
        if self.chunk_frames < 0 or self.chunk_frames % 4:
            raise ValueError(f"reconstruct.chunk_frames is {self.chunk_frames}, but must be a multiple of 4, or 0")
        if self.tile_size != -1 and (self.tile_size < 0 or self.tile_size % 64):
            raise ValueError(f"reconstruct.tile_size is {self.tile_size}, but must be a multiple of 64, 0 or -1")
        find_protocols(self.protocols)
        if unknown := [name for name in self.save if name not in SAVED]:
            raise ValueError(f"reconstruct.save names {unknown[0]!r}, expected some of {', '.join(SAVED)}")
        if len(self.exchange) not in (0, 2):
            raise ValueError(f"reconstruct.exchange names {len(self.exchange)} files, but must name two: [A,B]")
        for name in ("resolution", "max_frames", "clips_per_file"):
            if getattr(self, name) < 0:
                raise ValueError(f"reconstruct.{name} is {getattr(self, name)}, but must be 0 or more")
