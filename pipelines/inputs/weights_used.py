"""Which files of pretrained weights a configuration uses."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.inputs.experiment import Experiment
from pipelines.metrics.fvd_protocols import find_protocol
from pipelines.metrics.i3d_weights import BN_EPS, TORCHSCRIPT_FILE
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES
from pipelines.metrics.weight_files import find_weights


@dataclass(frozen=True)
class WeightsUse:
    """One use of a file."""

    name: str  # of the file, a key of weight_files.FILES
    use: str
    without: str  # what happens where it is missing
    stops_training: bool = False


def weights_used(config: Experiment, trains_vae: bool = True) -> list[WeightsUse]:
    """Every use of a file of weights in `config`, the most needed first."""
    losses, evaluate = config.vae.losses, config.evaluate
    uses = []
    if losses.perceptual:
        name = LPIPS_BACKBONES[losses.perceptual_network]
        uses.append(WeightsUse(name, "the perceptual loss", "set vae.losses.perceptual=0", trains_vae))
    if find_protocol(evaluate.protocol).weights_file == TORCHSCRIPT_FILE:
        uses.append(WeightsUse("i3d-torchscript", evaluate.protocol, "scores by I3D carry the name of other weights"))
    uses.append(WeightsUse("i3d", "fvd16 and rfvd", "there are proxies on random weights only"))
    uses.append(WeightsUse(LPIPS_BACKBONES[evaluate.lpips_network], "LPIPS scores", "they are left out"))
    if evaluate.frames_per_video:
        uses.append(WeightsUse("inception", "FID and inception score of frames", "they are left out"))
    return uses


def weights_found(config: Experiment) -> dict[str, str]:
    """The files in weights.folder that scores use: {"i3d", "lpips", "inception": name, "" where there is none}."""
    folder = Path(config.weights.folder)
    preferred = (find_protocol(config.evaluate.protocol).weights_file, *BN_EPS)
    i3d = next((name for name in preferred if (folder / name).is_file()), "")
    names = {"lpips": LPIPS_BACKBONES[config.evaluate.lpips_network], "inception": "inception"}
    others = {use: find_weights(folder, name) for use, name in names.items()}
    return {"i3d": i3d, **{use: path.name if path else "" for use, path in others.items()}}
