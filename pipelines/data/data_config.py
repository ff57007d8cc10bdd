"""Options of the data section: where the videos are, which of them are accepted, and how a clip is cut from them."""

from dataclasses import dataclass, field

from pipelines.data.synthetic import MovingShapesConfig


@dataclass(frozen=True)
class DataConfig:
    """The data section of an experiment."""

    root: str = ""  # folder of videos or a CSV (path,label[,split]); empty = the embedded moving shapes
    splits: str = ""  # folder of classInd.txt and trainlist01.txt, testlist01.txt; empty = root, else a seeded split
    split_number: int = 1  # which of the lists 01, 02, 03 to use
    validation_fraction: float = 0.1  # part of the files (UCF-101: of the groups) held out where there are no lists
    resolution: int = 64  # clips are resolution x resolution pixels: short side resized, long side cropped
    num_frames: int = 17  # frames per clip, 4n + 1
    frame_stride: int = 1  # take every n-th frame of the file
    flip: bool = False  # mirror training clips (the cache holds both); off where left and right are different classes
    memory_cache_gb: float = 2.0  # keep decoded and resized files in memory up to this size
    probe_seconds: float = 30.0  # time limit for checking one file
    probe_memory_mb: int = 950  # memory limit of the process that checks files
    probe_workers: int = 0  # processes that check files; 0 = one per CPU core, at most 16
    max_frame_pixels: int = 9_437_184  # refuse files whose width x height is larger (4096 x 2304)
    max_file_pixels: int = 4_000_000_000  # refuse files whose width x height x frames is larger
    shapes: MovingShapesConfig = field(default_factory=MovingShapesConfig)  # the embedded data set

    def __post_init__(self) -> None:
        for name in ("resolution", "num_frames", "frame_stride", "max_frame_pixels", "max_file_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"data.validation_fraction is {self.validation_fraction}, but must be in [0, 1)")
        if self.split_number not in (1, 2, 3):
            raise ValueError(f"data.split_number is {self.split_number}, but must be 1, 2 or 3")

    @property
    def clip_span(self) -> int:
        """Frames of the file that one clip covers."""
        return (self.num_frames - 1) * self.frame_stride + 1
