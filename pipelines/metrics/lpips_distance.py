"""LPIPS (Zhang et al. 2018, version 0.1): the network, which is a training loss too, and the score of uint8 videos."""

import warnings
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from pipelines.metrics.declared import LOWER, RECONSTRUCTION, Metric, declare
from pipelines.metrics.frame_quality import check_pair
from pipelines.metrics.full_precision import full_precision
from pipelines.metrics.random_state import seeded
from pipelines.metrics.weight_files import checked_hash, find_weights, how_to_fetch, read_tensors

LPIPS_BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}  # LPIPS network -> its backbone, a key of weight_files.FILES
SMALLEST_FOR_LPIPS = 32  # pixels: less than that, the backbone's pools leave nothing
for name, network in {"lpips_alex": "AlexNet", "lpips_vgg": "VGG16"}.items():
    meaning = f"Perceptual distance (LPIPS, {network}) of the reconstruction. Lower is better."
    declare(Metric(name, meaning, LOWER, "all frames of {clips} held-out clips", RECONSTRUCTION))


def load_lpips(folder: str | Path, network: str = "alex") -> nn.Module:
    """LPIPS on AlexNet ("alex") or VGG16 ("vgg") from `folder`, frozen and in eval mode; its linear heads ship with it.

    The module takes images (n, 3, h, w) in [-1, 1] and gives (n, 1, 1, 1). Raises ValueError when the backbone's file
    is absent or is another one: a random backbone is never used.
    """
    if network not in LPIPS_BACKBONES:
        raise ValueError(f"LPIPS network is one of {', '.join(LPIPS_BACKBONES)}, got {network!r}; choose one of them.")
    backbone = LPIPS_BACKBONES[network]
    path = find_weights(folder, backbone)
    if path is None:
        raise ValueError(f"LPIPS on {network} needs {backbone} in {folder}: {how_to_fetch(backbone, folder)}")
    checked_hash(path)
    state = read_tensors(path)
    import lpips

    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by arguments that torchvision deprecates
        model = lpips.LPIPS(net=network, pnet_rand=True, verbose=False).eval()
    # lpips cuts torchvision's `features` into slices and keeps the layer numbers.
    names = {key: f"features.{key.split('.', maxsplit=1)[1]}" for key in model.net.state_dict()}
    try:
        model.net.load_state_dict({key: state[name] for key, name in names.items()})
    except (KeyError, RuntimeError) as error:  # another network
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not torchvision's {backbone} ({reason}): remove it, and fetch it again") from error
    return model.requires_grad_(False)


@torch.inference_mode()
def lpips_distance(model: nn.Module, a_uint8: Tensor, b_uint8: Tensor) -> Tensor:
    """model: from `load_lpips`, on any device; a_uint8, b_uint8: (n, t, h, w, 3) uint8 -> (n,), mean over frames."""
    check_pair(a_uint8, b_uint8)
    device = next(model.parameters()).device
    distances = []
    for a, b in zip(a_uint8, b_uint8, strict=True):
        pair = [rearrange(video, "t h w c -> t c h w").to(device).float() / 127.5 - 1 for video in (a, b)]
        with full_precision():
            distances.append(model(*pair).mean().cpu())
    return torch.stack(distances)
