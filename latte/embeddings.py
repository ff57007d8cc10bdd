"""What Latte adds to its tokens and conditions on: positions, timestep (the label's table is a plain nn.Embedding)."""

import torch
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from einops import rearrange, repeat
from torch import Tensor, nn

NUM_FREQUENCIES = 256
ROTARY_BASE = 100.0


def sincos(positions: Tensor, width: int) -> Tensor:
    """Sine-cosine embedding [sin | cos] with wavelengths 2 pi 10000^(2i/width); positions (n,) -> (n, width)."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width)
    angles = rearrange(positions.double(), "n -> n 1") * frequencies  # (n, width / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def spatial_positions(height: int, width: int, channels: int) -> Tensor:
    """Fixed embedding of a grid of patches, (height * width, channels): first half the column, second the row."""
    column = repeat(torch.arange(width), "w -> (h w)", h=height)
    row = repeat(torch.arange(height), "h -> (h w)", w=width)
    return torch.cat([sincos(column, channels // 2), sincos(row, channels // 2)], dim=1)


def rotation_angles(times: Tensor, height: int, width: int, head_size: int) -> Tensor:
    """Angles of 3-D axial rotary positions, (f, height * width, head_size / 2) for latent times (f,).

    Rotary embedding (Su et al. 2021) with the pairs of channels divided among the axes: 3/8 of them turn with the row,
    3/8 with the column, the rest with the time. The slowest pair turns by about 1/100 radian per step, which suits
    grids of tens of patches (Heo et al. 2024).
    """
    pairs = head_size // 2
    spatial = max(pairs * 3 // 8, 1)
    time = repeat(_angles(times, pairs - 2 * spatial), "t d -> t (h w) d", h=height, w=width)
    row = repeat(_angles(torch.arange(height), spatial), "h d -> t (h w) d", t=len(times), w=width)
    column = repeat(_angles(torch.arange(width), spatial), "w d -> t (h w) d", t=len(times), h=height)
    return torch.cat([time, row, column], dim=2).float()


def _angles(positions: Tensor, size: int) -> Tensor:
    frequencies = ROTARY_BASE ** (-torch.arange(size, dtype=torch.float64, device=positions.device) / size)
    return rearrange(positions.double(), "n -> n 1") * frequencies


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + d / 2) of channels of x (..., n, d) by the angles whose (cos, sin) are (2, n, d / 2)."""
    cos, sin = cos_sin.unbind()
    first, second = rearrange(x, "... n (two pairs) -> two ... n pairs", two=2).unbind()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class TimeEmbedding(nn.Module):
    """Timestep in [0, 1000] -> condition vector, always float32 (DiT: sinusoid [cos | sin], then a two-layer MLP)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = TimestepEmbedding(in_channels=NUM_FREQUENCIES, time_embed_dim=width, act_fn="silu")

    def forward(self, timestep: Tensor) -> Tensor:
        """timestep: (b,) -> (b, width)."""
        with torch.autocast(timestep.device.type, enabled=False):
            frequencies = get_timestep_embedding(
                timestep.float(), NUM_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
            )
            return self.mlp(frequencies)


def drop_labels(labels: Tensor, num_classes: int, dropout: float, uniform: Tensor) -> Tensor:
    """Replace labels by the null class where `uniform` < dropout or where a clip has none (-1); all (b,)."""
    return torch.where((uniform < dropout) | (labels < 0), num_classes, labels)
