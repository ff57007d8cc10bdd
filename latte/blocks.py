"""Latte's transformer block and final layer: adaLN-Zero, attention over space, time or both, MLP."""

from typing import Literal

import torch
from einops import rearrange
from timm.layers import GELUTanh, Mlp
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

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


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (b, f, s, d) times 1 + scale plus shift, both (b, 1, 1, d)."""
    return torch.addcmul(shift, x, 1 + scale)


class Modulation(nn.Module):
    """adaLN-Zero: `num` vectors from the condition, made once per sample in float32 and broadcast over its tokens."""

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.num = num
        self.linear = nn.Linear(width, num * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """condition: (b, d) -> `num` tensors (b, 1, 1, d)."""
        with torch.autocast(condition.device.type, enabled=False):
            vectors = self.linear(nn.functional.silu(condition))  # (b, num d)
        return rearrange(vectors, "b (num d) -> num b 1 1 d", num=self.num).unbind()


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (b, heads, n, d) each: SDPA, or plain products for short sequences on a CPU.

    There the backward pass of SDPA takes five times as long in bf16 (80 tokens: 13 ms against 1.8 ms).
    """
    if query.device.type != "cpu" or query.shape[2] > MAX_PLAIN_TOKENS:
        return scaled_dot_product_attention(query, key, value)
    scores = torch.matmul(query * query.shape[3] ** -0.5, rearrange(key, "b heads n d -> b heads d n"))
    return torch.matmul(scores.softmax(dim=3).to(value.dtype), value)


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

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, f, s, d) -> the same shape."""
        _, f, s, _ = x.shape
        query, key, value = rearrange(self.qkv(x), TO_HEADS[self.axis], n=3, heads=self.heads).unbind()
        if self.qk_norm:  # in float32, as its weights
            query = self.query_norm(query.float()).to(value.dtype)
            key = self.key_norm(key.float()).to(value.dtype)
        mixed = attend(query, key, value)
        inner = {"s": s} if self.axis == "time" else {"f": f}
        return self.output(rearrange(mixed, FROM_HEADS[self.axis], **inner))


class LatteBlock(nn.Module):
    """x + gate * attention(modulated x), then the same with an MLP (Peebles & Xie 2023, adaLN-Zero)."""

    def __init__(self, width: int, heads: int, axis: Axis, qk_norm: bool, mlp_ratio: float) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention_norm = layer_norm(width)
        self.attention = Attention(width, heads, axis, qk_norm)
        self.mlp_norm = layer_norm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=GELUTanh)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (b, f, s, d), condition: (b, d) -> (b, f, s, d)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)  # each (b, 1, 1, d)
        x = torch.addcmul(x, gate_a, self.attention(modulate(self.attention_norm(x), shift_a, scale_a)))
        return torch.addcmul(x, gate_m, self.mlp(modulate(self.mlp_norm(x), shift_m, scale_m)))


class FinalLayer(nn.Module):
    """Modulated LayerNorm, then one linear head per stream; float32."""

    def __init__(self, width: int, head_sizes: dict[str, int]) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.modulation = Modulation(width, 2)
        self.heads = nn.ModuleDict({stream: nn.Linear(width, size) for stream, size in head_sizes.items()})

    def forward(self, x: Tensor, condition: Tensor, num_frames: list[int]) -> dict[str, Tensor]:
        """x: (b, f, s, d) with the streams' frames one after the other -> {stream: (b, f_stream, s, size)}."""
        with torch.autocast(x.device.type, enabled=False):
            shift, scale = self.modulation(condition)
            frames = modulate(self.norm(x.float()), shift, scale).split(num_frames, dim=1)
            return {stream: head(part) for (stream, head), part in zip(self.heads.items(), frames, strict=True)}
