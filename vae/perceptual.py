"""LPIPS-VGG as a training loss. Its VGG16 backbone must be brought by the user: it is never silently random."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from einops import rearrange
from torch import nn

from vae.interface import TEMPORAL_COMPRESSION

VGG_FILE = "vgg16-397923af.pth"


class PerceptualLoss(nn.Module):
    """LPIPS (Zhang et al. 2018) with VGG16 between images in [-1, 1]; frozen."""

    def __init__(self, weights_dir: str) -> None:
        super().__init__()
        path = Path(weights_dir) / VGG_FILE
        if not path.is_file():
            raise ValueError(
                f"vae.losses.perceptual needs the VGG16 weights {VGG_FILE} of torchvision (IMAGENET1K_V1) at {path}: "
                "put the file there, or set vae.losses.perceptual=0"
            )
        import lpips  # imported here: it is slow, and not needed without the loss

        with warnings.catch_warnings():  # lpips calls torchvision in a way that is going out of use
            warnings.simplefilter("ignore")
            self.lpips = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # its linear heads come with it
        load_vgg_backbone(self.lpips.net, torch.load(path, map_location="cpu", weights_only=True))
        self.lpips.requires_grad_(False).eval()

    def forward(self, decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """decoded, target: (n, 3, h, w) in [-1, 1] -> scalar mean distance."""
        return self.lpips(decoded, target).mean()


def load_vgg_backbone(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Fill lpips' five VGG slices, whose layers keep torchvision's numbers, from torchvision's `features.N.*`."""
    own = network.state_dict()
    renamed = {key: f"features.{key.split('.', 1)[1]}" for key in own}
    missing = [name for name in renamed.values() if name not in state]
    if missing:
        raise ValueError(f"{VGG_FILE} is not a torchvision VGG16: it has no tensor {missing[0]}")
    network.load_state_dict({key: state[name] for key, name in renamed.items()})


def perceptual_frames(video: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """Frame 0 and one random group of four of each clip: (b, 3, t, h, w) -> indices (b, 5), or (b, 1) at t = 1."""
    num_groups = (video.shape[2] - 1) // TEMPORAL_COMPRESSION
    first = torch.zeros(len(generators), 1, dtype=torch.long)
    if num_groups == 0:
        return first
    group = torch.stack([torch.randint(num_groups, (1,), generator=g) for g in generators])  # (b, 1)
    return torch.cat([first, 1 + TEMPORAL_COMPRESSION * group + torch.arange(TEMPORAL_COMPRESSION)], dim=1)


def take_frames(video: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """video: (b, 3, t, h, w), indices: (b, n) -> images (b n, 3, h, w)."""
    clips = torch.arange(video.shape[0], device=video.device)
    frames = rearrange(video, "b c t h w -> b t c h w")[rearrange(clips, "b -> b 1"), indices.to(video.device)]
    return rearrange(frames, "b n c h w -> (b n) c h w")
