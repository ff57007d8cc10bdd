"""Frame scores through torchvision's Inception v3: Frechet distance of single frames (FID) and inception score.

The FID and IS of image papers use TensorFlow's weights of 2015, these use torchvision's: the names say so.
"""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pipelines.metrics.declared import ITS_RECORD, LOWER, Metric, declare
from pipelines.metrics.full_precision import full_precision
from pipelines.metrics.weight_files import checked_hash, read_tensors

FEATURES, CLASSES = 2048, 1000
SIZE = 299
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect

declare(
    Metric(
        "fid_torchvision",
        "Fréchet distance of single frames in Inception features, with torchvision's weights.",
        LOWER,
        ITS_RECORD,
    )
)


def load_inception(path: Path) -> nn.Module:
    """torchvision's Inception v3 from its file, in eval mode, with its last layer still on. ValueError for another."""
    checked_hash(path)
    network = build_inception()
    network.load_state_dict(read_tensors(path))
    return network


def build_inception() -> nn.Module:
    """The network with random weights, in eval mode."""
    from torchvision.models import inception_v3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision announces a change of its own initialisation
        return inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False).eval()


@torch.inference_mode()
def frame_features(clips_uint8: Tensor, network: nn.Module, num_frames: int) -> Tensor:
    """Frames spread over each clip -> what Inception says of them.

    clips_uint8: (n, t, h, w, 3) uint8 -> (n, num_frames * (2048 + 1000)): per frame, features and logits.
    """
    device = next(network.parameters()).device
    places = torch.linspace(0, clips_uint8.shape[1] - 1, num_frames).round().long()
    frames = rearrange(clips_uint8[:, places], "n t h w c -> (n t) c h w").to(device).float() / 255
    frames = F.interpolate(frames, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    seen: list[Tensor] = []
    handle = network.get_submodule("avgpool").register_forward_hook(lambda *call: seen.append(call[2].flatten(1)))
    try:
        with full_precision():
            logits = network((frames - mean) / std)
    finally:
        handle.remove()
    both = torch.cat([seen[0], logits], dim=1).float().cpu()
    return rearrange(both, "(n t) d -> n (t d)", n=len(clips_uint8))


def split_frames(features: Tensor) -> tuple[Tensor, Tensor]:
    """What `frame_features` gave for n clips -> features (n * num_frames, 2048) and logits (n * num_frames, 1000)."""
    frames = rearrange(features, "n (t d) -> (n t) d", d=FEATURES + CLASSES)
    return frames[:, :FEATURES], frames[:, FEATURES:]
