"""Pictures of videos while they are being made: the model's estimates through the latent cache's linear RGB probe."""

from pathlib import Path

from einops import repeat

from latte.diffusion import Parts
from latte.latte import Latte
from latte.sampler import Callback
from pipelines.data.latent_rgb import latent_preview
from pipelines.data.pictures import tile
from pipelines.data.video_file import write_gif

COLUMNS, ENLARGED = 8, 4
FRAMES_PER_LATENT = 4


def preview_writer(folder: Path, model: Latte, every: int, fps: float) -> Callback:
    """For `generate`: folder/step-00010.gif every `every` steps of the first batch and at its end.

    It costs no decoding. Raises ValueError at the first step for a Latte whose latent cache had no probe.
    """
    finished = False

    def write(step: int, num_steps: int, clean: Parts) -> None:
        nonlocal finished
        if finished or (step % every and step < num_steps):
            return
        finished = step == num_steps
        videos = latent_preview(clean, model.architecture.parts)  # (b, t', h, w, 3)
        large = repeat(videos, "b t h w c -> b t (h y) (w x) c", y=ENLARGED, x=ENLARGED)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [list(large[start : start + COLUMNS]) for start in range(0, len(large), COLUMNS)]
        write_gif(folder / f"step-{step:05d}.gif", tile(rows), fps / FRAMES_PER_LATENT)

    return write
