"""The published Latte block stated again in plain PyTorch, as a reference for speed (Ma et al. 2024, variant 1).

Numbers are those of `latte.latte.Latte` with factorised attention. What differs is how they are made: the condition is
repeated for every row of frames or patches before the adaLN layers, the tokens are copied between (b f) s d and
(b s) f d around every block, and attention is written out.
"""

import torch
from einops import rearrange, repeat
from timm.layers import GELUTanh, Mlp
from torch import Tensor, nn

from latte.embeddings import TimeEmbedding, sincos, spatial_positions


class PublishedBlock(nn.Module):
    """adaLN-Zero with one row of modulation per row of tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width, act_layer=GELUTanh)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (rows, n, d), condition: (rows, d) -> (rows, n, d)."""
        vectors = rearrange(self.modulation(nn.functional.silu(condition)), "r (six d) -> six r 1 d", six=6)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors.unbind()
        x = x + gate_a * self.attend(self.norms[0](x) * (1 + scale_a) + shift_a)
        return x + gate_m * self.mlp(self.norms[1](x) * (1 + scale_m) + shift_m)

    def attend(self, x: Tensor) -> Tensor:
        """x: (rows, n, d) -> the same shape."""
        split = "r n (three heads d) -> three r heads n d"
        query, key, value = rearrange(self.qkv(x), split, three=3, heads=self.heads).contiguous().unbind()
        weights = (query @ rearrange(key, "r heads n d -> r heads d n") * query.shape[3] ** -0.5).softmax(dim=3)
        return self.output(rearrange(weights @ value, "r heads n d -> r n (heads d)"))


class PublishedLatte(nn.Module):
    """The whole model around that block; spatial and temporal blocks in turn."""

    def __init__(
        self, latents: tuple[int, int, int, int], depth: int, width: int, heads: int, patch: int, num_classes: int
    ) -> None:
        """latents: (channels, frames, height, width)."""
        super().__init__()
        channels, frames, rows, columns = latents
        self.patch, self.grid = patch, (rows // patch, columns // patch)
        self.patch_embedding = nn.Conv2d(channels, width, patch, stride=patch)
        self.time_embedding = TimeEmbedding(width)
        self.label_embedding = nn.Embedding(num_classes + 1, width)
        self.blocks = nn.ModuleList(PublishedBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch**2 * channels)
        self.register_buffer("patch_positions", spatial_positions(*self.grid, width), persistent=False)
        self.register_buffer("frame_positions", sincos(torch.arange(frames), width), persistent=False)

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """x: (b, c, t, h, w); timestep, labels: (b,) -> (b, c, t, h, w)."""
        batch, _, frames, _, _ = x.shape
        patches = self.patch_embedding(rearrange(x, "b c t h w -> (b t) c h w"))
        tokens = rearrange(patches, "r d h w -> r (h w) d") + self.patch_positions  # (b t, s, d)
        condition = self.time_embedding(timestep) + self.label_embedding(labels)
        for_frames = repeat(condition, "b d -> (b t) d", t=frames)
        for_patches = repeat(condition, "b d -> (b s) d", s=tokens.shape[1])
        for index, block in enumerate(self.blocks):
            if index % 2 == 0:
                tokens = block(tokens, for_frames)
                continue
            tokens = rearrange(tokens, "(b t) s d -> (b s) t d", b=batch).contiguous()
            tokens = block(tokens + self.frame_positions if index == 1 else tokens, for_patches)
            tokens = rearrange(tokens, "(b s) t d -> (b t) s d", b=batch).contiguous()
        vectors = rearrange(self.modulation(nn.functional.silu(for_frames)), "r (two d) -> two r 1 d", two=2)
        shift, scale = vectors.unbind()
        values = self.head(self.norm(tokens) * (1 + scale) + shift)
        joined, sizes = "(b t) (h w) (p q c) -> b c t (h p) (w q)", {"p": self.patch, "q": self.patch}
        return rearrange(values, joined, b=batch, h=self.grid[0], w=self.grid[1], **sizes)
