"""Options of sample: the section `sample`."""

from dataclasses import dataclass

from latte.sampler import SamplerConfig


@dataclass(frozen=True)
class SampleSection(SamplerConfig):
    """Generating videos."""

    vae: str = ""  # run or model folder of the autoencoder; empty = this run's cache.vae, or its train_vae
    latte: str = ""  # run or model folder of the Latte; empty = this run's train_latte
    weights: str = "last"  # last or best (lowest validation loss) averaged weights of Latte
    ema_length: float = (
        0.0  # weights averaged over this share of the training (see latte.loop.ema_snapshot_every); 0 = off
    )
    classes: tuple[str, ...] = ()  # class names or numbers; empty = all classes
    per_class: int = 8  # videos per class (videos in all where there are no classes)
    seed: int = 0  # seed of the first video; the others count up
    batch_size: int = 32  # videos sampled at once
    precision: str = "fp32"  # fp32 or bf16 (autocast)
    save: tuple[str, ...] = ("mp4", "lossless")  # what is written per video: mp4, lossless (uint8 in safetensors)
    fps: int = 8  # frames per second of the mp4 and GIF files
    guide: str = ""  # run or model folder of a weaker Latte to guide away from; empty = the model without a class
    first_frame: str = ""  # image or video whose first frame all begin with, or a folder of them (image-to-video)
    interpolate: tuple[int, ...] = ()  # two seeds: the videos of a class lie on the arc between them; empty = off
    preview_every: int = 0  # pictures of the first batch every so many steps, without decoding; 0 = off

    def __post_init__(self) -> None:
        if len(self.interpolate) not in (0, 2):
            raise ValueError(f"sample.interpolate holds {len(self.interpolate)} seeds, but must hold two: [1,2]")
        for name in ("per_class", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"sample.{name} is {getattr(self, name)}, but must be 1 or more")
        if self.preview_every < 0:
            raise ValueError(f"sample.preview_every is {self.preview_every}, but must be 0 or more")
