"""Latte (Ma et al. 2024), variant 1: a diffusion transformer over the streams of a latent layout."""

from dataclasses import asdict

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from latte.blocks import Axis, FinalLayer, LatteBlock, Modulation, build_mlp
from latte.config import read_records
from latte.embeddings import TimeEmbedding, rotation_angles, sincos, spatial_positions
from latte.latent_layout import LatentLayout

EARLY = ":early"  # after the name of a stream: what the early head predicts for it


class Latte(ModelMixin, ConfigMixin):
    """Predicts the objective's target for every stream; built of two records: `Latte(**build_records(...))`."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, architecture: dict, training: dict | None = None) -> None:
        super().__init__()
        self.architecture, self.training_options = read_records(architecture, training)
        if training is None:  # saved before the records were apart: saved again, it has both
            self.register_to_config(architecture=asdict(self.architecture), training=asdict(self.training_options))
        depth, width, heads, self.patch = self.architecture.dimensions()
        self.layout: LatentLayout = self.architecture.layout_of_parts()
        self.num_classes = len(self.architecture.classes)
        self.predicts_variance = self.architecture.objective == "epsilon"
        factorised = self.architecture.attention == "factorised"
        # Latte adds the temporal positions between its first spatial and its first temporal block; full attention mixes
        # time at once and gets them at the input
        self.first_temporal_block = 1 if factorised else 0

        streams, values = self.layout.streams, self.patch**2
        self.patch_embeddings = nn.ModuleDict({s.name: nn.Linear(s.channels * values, width) for s in streams})
        if len(streams) > 1:
            self.stream_embedding = nn.Parameter(torch.empty(len(streams), width))
        self.time_embedding = TimeEmbedding(width)
        if self.num_classes:
            self.label_embedding = nn.Embedding(self.num_classes + 1, width)  # the last row is "no class"
        axes: tuple[Axis, Axis] = ("space", "time") if factorised else ("both", "both")
        qk_norm, mlp, mlp_ratio = self.architecture.qk_norm, self.architecture.mlp, self.architecture.mlp_ratio
        self.blocks = nn.ModuleList(
            LatteBlock(width, heads, axes[i % 2], qk_norm, build_mlp(mlp, width, mlp_ratio)) for i in range(depth)
        )
        outputs = 2 * values if self.predicts_variance else values
        self.final_layer = FinalLayer(width, {s.name: s.channels * outputs for s in streams})
        if self.architecture.early_head:
            self.early_layer = FinalLayer(width, {s.name: s.channels * values for s in streams})

        times = torch.tensor([stream.first_time + frame for stream in streams for frame in range(stream.frames)])
        rows, columns = streams[0].height // self.patch, streams[0].width // self.patch
        self.rotates = self.architecture.positions == "rope"
        if self.rotates:
            angles = rotation_angles(times, rows, columns, width // heads)  # (f, s, d_head / 2)
            self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        else:
            self.register_buffer("frame_positions", sincos(times, width), persistent=False)  # (f, d)
            self.register_buffer("patch_positions", spatial_positions(rows, columns, width), persistent=False)  # (s, d)
        self.initialise()
        self.gradient_checkpointing = False
        if self.training_options.gradient_checkpointing:
            self.enable_gradient_checkpointing()

    def initialise(self) -> None:
        """As DiT: Xavier weights, N(0, 0.02) embeddings, and zero where the identity should be at the start."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.time_embedding.mlp.linear_1, self.time_embedding.mlp.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        if self.num_classes:
            nn.init.normal_(self.label_embedding.weight, std=0.02)
        if len(self.layout.streams) > 1:
            nn.init.normal_(self.stream_embedding, std=0.02)
        modulations = [module.linear for module in self.modules() if isinstance(module, Modulation)]
        heads = [head for module in self.modules() if isinstance(module, FinalLayer) for head in module.heads.values()]
        for output in (*modulations, *heads):
            nn.init.zeros_(output.get_parameter("weight"))

    def forward(
        self,
        streams: dict[str, Tensor],
        timestep: Tensor | dict[str, Tensor],
        labels: Tensor | None = None,
        early: bool = False,
    ) -> dict[str, Tensor]:
        """One prediction per stream.

        streams: {stream: (b, C, T, h, w)}: all of the layout's, or some of them, or the first frames of some: a single
        image is `layout.of_image()`. Only what is given takes tokens. timestep: (b,) in [0, 1000], 0 = data, or
        {stream: (b,)}; labels: (b,) int64, `num_classes` = no class, None = no class for all; ignored by a model
        without classes. Returns {stream: (b, C_out, T, h, w)} in float32: C_out is C, or 2 C when the model predicts
        variances too (first C: noise, last C: variance, each in [-1, 1]). early: also {stream:early: (b, C, T, h, w)},
        what the early head predicts.
        """
        num_frames = {s.name: streams[s.name].shape[2] for s in self.layout.streams if s.name in streams}
        frames, p = list(num_frames.values()), self.patch

        times = [timestep] if isinstance(timestep, Tensor) else [timestep[name] for name in num_frames]  # each (b,)
        condition = torch.stack([self.time_embedding(time) for time in times], dim=1)  # (b, 1 or streams, d)
        if self.num_classes:
            if labels is None:
                labels = torch.full_like(times[0], self.num_classes, dtype=torch.long)  # (b,)
            condition = condition + rearrange(self.label_embedding(labels), "b d -> b 1 d")  # (b, 1 or streams, d)

        tokens = []
        for index, stream in enumerate(self.layout.streams):
            if stream.name in streams:
                patches = rearrange(streams[stream.name], "b c f (h p) (w q) -> b f (h w) (c p q)", p=p, q=p)
                own = self.patch_embeddings[stream.name](patches)  # (b, f_stream, s, d)
                tokens.append(own + self.stream_embedding[index] if len(self.layout.streams) > 1 else own)
        x = torch.cat(tokens, dim=1)  # (b, f, s, d)

        rotation = self.first_frames(self.rotation, num_frames, dim=1) if self.rotates else None  # (2, f, s, d_head/2)
        x = x if self.rotates else x + self.patch_positions  # (b, f, s, d)
        found: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            if early and index == self.architecture.early_head:
                values = self.early_layer(x, condition, num_frames)
                found = {f"{name}{EARLY}": self.unpatch(patches) for name, patches in values.items()}
            if index == self.first_temporal_block and not self.rotates:
                positions = self.first_frames(self.frame_positions, num_frames, dim=0)  # (f, d)
                x = x + rearrange(positions, "f d -> f 1 d")  # (b, f, s, d)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, condition, frames, rotation)  # (b, f, s, d)
            else:
                x = block(x, condition, frames, rotation)  # (b, f, s, d)

        values = self.final_layer(x, condition, num_frames)  # {stream: (b, f_stream, s, p p C_out)}
        return {name: self.unpatch(patches) for name, patches in values.items()} | found  # (b, C_out, T, h, w) each

    def unpatch(self, patches: Tensor) -> Tensor:
        """(b, f, s, p p C) -> (b, C, f, h, w)."""
        p, rows = self.patch, self.layout.streams[0].height // self.patch
        return rearrange(patches, "b f (h w) (p q c) -> b c f (h p) (w q)", h=rows, p=p, q=p)

    def first_frames(self, table: Tensor, num_frames: dict[str, int], dim: int) -> Tensor:
        """The rows of a table over all frames of the layout that belong to the first `num_frames` of the streams."""
        rows = table.split([stream.frames for stream in self.layout.streams], dim=dim)
        pairs = [(own, num_frames.get(s.name, 0)) for s, own in zip(self.layout.streams, rows, strict=True)]
        return torch.cat([own.narrow(dim, 0, count) for own, count in pairs if count], dim=dim)
