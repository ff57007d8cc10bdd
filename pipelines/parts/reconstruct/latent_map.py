"""DeCo-VAE Figure 1b: PCA and t-SNE of the latents of one autoencoder, beside another's, with compactness numbers.

A point is all that an autoencoder stores about one latent cell (8 x 8 pixels) of one clip: of every part, all channels
of all latent frames. Decoupled and plain latents are so compared on the same pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from pipelines.data.clip_dataset import centre_square
from pipelines.data.video_file import read_video, to_float
from pipelines.data.video_sources import VideoSource
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.compactness import compactness, principal_components, standardise
from pipelines.metrics.rfvd import clip_starts
from pipelines.parts.reconstruct.folders import results_folder
from pipelines.run.folder import StageFolder, write_json
from pipelines.run.ranks import choose_device
from vae.interface import VideoAutoencoder
from vae.registry import load_autoencoder

MAP_OPTIONS = ("input", "max_frames")
CLIPS_PER_FILE = 4
NUM_POINTS = 1500  # t-SNE takes seconds
TSNE_DIMENSIONS = 50  # PCA comes first, as its authors do
PERPLEXITY = 30.0
SMALLEST_CLOUD = 10  # points
PANEL_INCHES = 4.2


def draw_latent_map(config: Experiment, models: Mapping[str, Path], sources: Sequence[VideoSource]) -> None:
    """latent_map.png and latent_map.json in a folder of their own, unless they are there already.

    models: folders of one or two autoencoders by what they are called in the provenance.
    """
    options = config.reconstruct
    names = [options.input or "held-out", "latent_map"]
    clip = {"frames": config.data.num_frames, "resolution": config.data.resolution}
    path, settings, inputs = results_folder(config, names, MAP_OPTIONS, models, clips=clip)
    folder = StageFolder(config.run.root, config.run.name, path)
    with folder.open(settings, inputs):
        files = [[source.name, source.sha256] for source in sources]
        if folder.done and folder.done["outputs"]["files"] == files:
            return
        clouds = {}
        for model_path in models.values():
            model = load_autoencoder(model_path).to(choose_device(config.run.device))
            clouds[name_of(model_path, model, clouds)] = latent_points(model, clips(config, sources), config.run.seed)
        clouds = {name: cloud for name, cloud in clouds.items() if len(cloud["file"]) >= SMALLEST_CLOUD}
        if not clouds:
            print("reconstruct: no latent map, the files hold too few clips of data.num_frames frames")
            return
        numbers = {name: describe_cloud(cloud) for name, cloud in clouds.items()}
        draw(folder.path / "latent_map.png", clouds, numbers, config.run.seed)
        write_json(folder.path / "latent_map.json", {"clouds": numbers, "definition": compactness.__doc__})
        folder.finish({"files": files})
        print(f"reconstruct: latent map in {folder.path / 'latent_map.png'}")


def clips(config: Experiment, sources: Sequence[VideoSource]) -> Iterator[tuple[int, Tensor]]:
    """(number of the file, clip (1, 3, t, h, w) in [-1, 1]) as in training: data.num_frames at data.resolution."""
    for number, source in enumerate(sources):
        for start in clip_starts(source.num_frames, config.data.num_frames, CLIPS_PER_FILE):
            frames = read_video(source.path, range(start, start + config.data.num_frames), source.random_reader)
            yield number, to_float(centre_square(frames, config.data.resolution)).unsqueeze(0)


@torch.no_grad()
def latent_points(model: VideoAutoencoder, clips: Iterator[tuple[int, Tensor]], seed: int) -> dict[str, Tensor]:
    """A seeded choice of latent cells of all clips: {"file": (n,), part: (n, latent frames x channels), ...}."""
    cells: dict[str, list[Tensor]] = {"file": []}
    for number, clip in clips:
        latents = {part: z.float().cpu() for part, z in model.encode(clip.to(model.device)).latents.items()}
        for part, z in latents.items():
            cells.setdefault(part, []).append(rearrange(z, "1 c t h w -> (h w) (t c)"))
        cells["file"].append(torch.full((len(cells[next(iter(latents))][-1]),), number))
    if not cells["file"]:
        return {"file": torch.empty(0)}
    joined = {name: torch.cat(values) for name, values in cells.items()}
    generator = torch.Generator().manual_seed(seed)  # models with cells of one size: the same cells
    order = torch.randperm(len(joined["file"]), generator=generator)[:NUM_POINTS]
    return {name: values[order] for name, values in joined.items()}


def whole(cloud: dict[str, Tensor]) -> Tensor:
    """All parts of each cell side by side, every dimension standardised: (n, d)."""
    return standardise(torch.cat([values for part, values in cloud.items() if part != "file"], dim=1))


def describe_cloud(cloud: dict[str, Tensor]) -> dict[str, Any]:
    """Compactness of all parts together and of each: on standardised latents, which Latte sees, and on raw ones."""
    parts = {part: values for part, values in cloud.items() if part != "file" and values.shape[1]}
    raw = {"all": torch.cat(list(parts.values()), dim=1)} | (parts if len(parts) > 1 else {})
    return {
        name: {
            "dimensions": values.shape[1],
            "points": values.shape[0],
            "standardised": compactness(standardise(values)),
            "raw": compactness(values),
        }
        for name, values in raw.items()
    }


def name_of(path: Path, model: VideoAutoencoder, taken: dict[str, Any]) -> str:
    """What a map is titled: the run's folder and the kind of autoencoder."""
    is_of_run = path.parent.name == "train_vae"
    name = f"{type(model).__name__} ({path.parent.parent.name if is_of_run else path.name})"
    return name if name not in taken else f"{name}, second"


def draw(path: Path, clouds: dict[str, dict[str, Tensor]], numbers: dict[str, dict[str, Any]], seed: int) -> None:
    """A column per autoencoder, PCA above t-SNE, coloured by file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL_INCHES * len(clouds), 2 * PANEL_INCHES + 0.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(clouds), squeeze=False)
    for column, (name, cloud) in enumerate(clouds.items()):
        points = whole(cloud)
        for row, (method, flat) in enumerate((("PCA", principal_components(points, 2)), ("t-SNE", tsne(points, seed)))):
            axes = grid[row][column]
            axes.scatter(
                *flat.T.numpy(), c=cloud["file"].numpy() % 20, cmap="tab20", vmin=0, vmax=19, s=5, linewidths=0
            )
            axes.set(xticks=[], yticks=[])
            score = numbers[name]["all"]["standardised"]
            title = method if row else (
                f"{name}\n{numbers[name]['all']['dimensions']} dimensions, effective rank {score['effective_rank']:.1f}"
                f" ({score['effective_rank_share']:.0%})\nmean distance {score['mean_distance']:.3f}\nPCA: "
                f"{score['variance_in_two']:.0%} of the variance"
            )  # fmt: skip
            axes.set_title(title, fontsize=9)
    figure.suptitle("One point: all latents of one cell of one clip; colour: file", fontsize=9)
    figure.savefig(path, metadata={"Software": None})


def tsne(points: Tensor, seed: int) -> Tensor:
    """van der Maaten & Hinton 2008 through scikit-learn, started from PCA: (n, d) -> (n, 2)."""
    from sklearn.manifold import TSNE

    reduced = principal_components(points, TSNE_DIMENSIONS).float().numpy()
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    return torch.from_numpy(TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced))
