"""Latte's transformer block and final layer: adaLN-Zero, attention over space, time or both, MLP."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from einops import rearrange, repeat
from timm.layers import GELUTanh, Mlp, SwiGLUPacked
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from latte.embeddings import rotate

Axis = Literal["space", "time", "both"]

MAX_PLAIN_TOKENS = 512

# tokens are (b, f, s, d): f frames of s patches; attention mixes the axis that is named last
TO_HEADS = {
    "space": "b f s (n heads d) -> n (b f) heads s d",
    "time": "b f s (n heads d) -> n (b s) heads f d",
    "both": "b f s (n heads d) -> n b heads (f s) d",
}
FROM_HEADS = {
    "space": "(b f) heads s d -> b f s (heads d)",
    "time": "(b s) heads f d -> b f s (heads d)",
    "both": "b heads (f s) d -> b f s (heads d)",
}


def build_mlp(kind: str, width: int, ratio: float) -> nn.Module:
    """`gelu`: two layers of `ratio` times the width. `swiglu` (Shazeer 2020): gated, and as three matrices take its
    place of two, 2/3 as wide, which is rounded to a multiple of 64 (of 8 below 512)."""
    hidden = int(width * ratio)
    if kind.startswith("gelu"):
        return Mlp(width, hidden, act_layer=nn.GELU if kind == "gelu_exact" else GELUTanh)
    multiple = 64 if hidden >= 512 else 8
    gated = max(round(hidden * 2 / 3 / multiple), 1) * multiple
    return SwiGLUPacked(width, 2 * gated, width)


def rotation_along(axis: Axis, rotation: Tensor) -> Tensor:
    """Cosines and sines (2, f, s, d_head / 2) -> those of the n tokens that attention mixes, (2, n, d_head / 2).

    Attention sees differences of positions only, so one frame stands for all where it mixes the patches of a frame,
    and one patch where it mixes the frames of a patch.
    """
    if axis == "space":
        return rotation.select(dim=1, index=0)
    if axis == "time":
        return rotation.select(dim=2, index=0)
    return rearrange(rotation, "two f s d -> two (f s) d")


class ModulatedNorm(nn.Module):
    """LayerNorm without weights of its own, times 1 + scale, plus shift (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """x: (b, f, s, d); shift, scale: (b, 1 or f, 1, d) -> the shape of x."""
        if scale.numel() == x.shape[3]:  # one row for all: LayerNorm's own weights, 0.6 x the time with gradients
            weight, bias = (rearrange(row, "1 1 1 d -> d") for row in (1 + scale, shift))
            return layer_norm(x, self.norm.normalized_shape, weight, bias, self.norm.eps)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Modulation(nn.Module):
    """adaLN-Zero: `num` vectors from the condition, made in float32 and broadcast over the tokens.

    One row per sample, or one per stream where the streams have times of their own; never one per token.
    """

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.num = num
        self.linear = nn.Linear(width, num * width)

    def forward(self, condition: Tensor, num_frames: Sequence[int]) -> tuple[Tensor, ...]:
        """condition: (b, 1 or streams, d); num_frames of each stream -> `num` tensors (b, 1 or f, 1, d)."""
        with torch.autocast(condition.device.type, enabled=False):
            vectors = self.linear(nn.functional.silu(condition))  # (b, streams, num d)
        rows = rearrange(vectors, "b streams (num d) -> streams num b 1 1 d", num=self.num).unbind()
        if len(rows) == 1:
            return rows[0].unbind()
        own = [repeat(row, "num b 1 1 d -> num b f 1 d", f=f) for row, f in zip(rows, num_frames, strict=True)]
        return torch.cat(own, dim=2).unbind()


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (b, heads, n, d) each: SDPA, or plain products for short sequences on a CPU.

    There the backward pass of SDPA takes five times as long in bf16 (80 tokens: 13 ms against 1.8 ms).
    """
    if query.device.type != "cpu" or query.shape[2] > MAX_PLAIN_TOKENS:
        return scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):  # softmax computes in float32 but need not return it
        scores = torch.matmul(query * query.shape[3] ** -0.5, rearrange(key, "b heads n d -> b heads d n"))
        return torch.matmul(scores.softmax(dim=3), value)


class Attention(nn.Module):
    """Multi-head self-attention through SDPA over one axis of the tokens, or over all of them."""

    def __init__(self, width: int, heads: int, axis: Axis, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.axis = heads, axis
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = qk_norm
        if qk_norm:
            self.query_norm, self.key_norm = (nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """x: (b, f, s, d) -> the same shape; rotation: (2, f, s, d_head / 2) cosines and sines, or None."""
        _, f, s, _ = x.shape
        query, key, value = rearrange(self.qkv(x), TO_HEADS[self.axis], n=3, heads=self.heads).unbind()
        if self.qk_norm:  # in float32, as its weights
            query = self.query_norm(query.float()).to(value.dtype)
            key = self.key_norm(key.float()).to(value.dtype)
        if rotation is not None:
            turn = rotation_along(self.axis, rotation)  # (2, n, d_head / 2)
            query, key = (rotate(heads.float(), turn).to(value.dtype) for heads in (query, key))
        mixed = attend(query, key, value)
        inner = {"s": s} if self.axis == "time" else {"f": f}
        return self.output(rearrange(mixed, FROM_HEADS[self.axis], **inner))


class LatteBlock(nn.Module):
    """x + gate * attention(modulated x), then the same with an MLP (Peebles & Xie 2023, adaLN-Zero)."""

    def __init__(self, width: int, heads: int, axis: Axis, qk_norm: bool, mlp: nn.Module) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention_norm = ModulatedNorm(width)
        self.attention = Attention(width, heads, axis, qk_norm)
        self.mlp_norm = ModulatedNorm(width)
        self.mlp = mlp

    def forward(self, x: Tensor, condition: Tensor, num_frames: Sequence[int], rotation: Tensor | None) -> Tensor:
        """x: (b, f, s, d) -> the same shape; condition, num_frames: see Modulation; rotation: see Attention."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition, num_frames)
        x = torch.addcmul(x, gate_a, self.attention(self.attention_norm(x, shift_a, scale_a), rotation))
        return torch.addcmul(x, gate_m, self.mlp(self.mlp_norm(x, shift_m, scale_m)))


class FinalLayer(nn.Module):
    """Modulated LayerNorm, then one linear head per stream; float32."""

    def __init__(self, width: int, head_sizes: dict[str, int]) -> None:
        super().__init__()
        self.norm = ModulatedNorm(width)
        self.modulation = Modulation(width, 2)
        self.heads = nn.ModuleDict({stream: nn.Linear(width, size) for stream, size in head_sizes.items()})

    def forward(self, x: Tensor, condition: Tensor, num_frames: Mapping[str, int]) -> dict[str, Tensor]:
        """x: (b, f, s, d) with the frames of the streams in `num_frames` one after the other; condition: (b, 1 or
        streams, d) -> {stream: (b, f_stream, s, size)}."""
        frames = list(num_frames.values())
        with torch.autocast(x.device.type, enabled=False):
            shift, scale = self.modulation(condition, frames)
            parts = self.norm(x.float(), shift, scale).split(frames, dim=1)
            return {name: self.heads[name](part) for name, part in zip(num_frames, parts, strict=True)}
