"""Latte (Ma et al. 2024), variant 1: a diffusion transformer over the streams of a latent layout."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from latte.blocks import Axis, FinalLayer, LatteBlock, Modulation, build_mlp
from latte.config import LatteArchitecture
from latte.embeddings import TimeEmbedding, rotation_angles, sincos, spatial_positions
from latte.latent_layout import LatentLayout


class Latte(ModelMixin, ConfigMixin):
    """Predicts the objective's target for every stream; `architecture` is `asdict(LatteArchitecture)`."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, architecture: dict) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.architecture = LatteArchitecture.from_dict(architecture)
        self.architecture.check()
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
        self.axes = [axes[i % 2] for i in range(depth)]
        self.blocks = nn.ModuleList(
            LatteBlock(
                width,
                heads,
                axis,
                self.architecture.qk_norm,
                build_mlp(self.architecture.mlp, width, self.architecture.mlp_ratio),
            )
            for axis in self.axes
        )
        outputs = 2 * values if self.predicts_variance else values
        self.final_layer = FinalLayer(width, {s.name: s.channels * outputs for s in streams})

        times = torch.tensor([stream.first_time + frame for stream in streams for frame in range(stream.frames)])
        rows, columns = streams[0].height // self.patch, streams[0].width // self.patch
        if self.architecture.positions == "rope":
            angles = rotation_angles(times, rows, columns, width // heads)
            self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        else:
            self.register_buffer("frame_positions", sincos(times, width), persistent=False)
            self.register_buffer("patch_positions", spatial_positions(rows, columns, width), persistent=False)
        self.initialise()
        if self.architecture.gradient_checkpointing:
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
        for output in (*modulations, *self.final_layer.heads.values()):
            nn.init.zeros_(output.get_parameter("weight"))

    def forward(
        self, streams: dict[str, Tensor], timestep: Tensor | dict[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One prediction per stream.

        streams: {stream: (b, C, T, h, w)}: all of the layout's, or some of them, or the first frames of some: a single
        image is `layout.of_image()`. Only what is given takes tokens. timestep: (b,) in [0, 1000], 0 = data, or
        {stream: (b,)}; labels: (b,) int64, `num_classes` = no class, None = no class for all; ignored by a model
        without classes. Returns {stream: (b, C_out, T, h, w)} in float32: C_out is C, or 2 C when the model predicts
        variances too (first C: noise, last C: variance, each in [-1, 1]).
        """
        num_frames = {s.name: streams[s.name].shape[2] for s in self.layout.streams if s.name in streams}
        condition = self.condition(timestep, labels, list(num_frames))  # (b, 1 or streams, d)
        rotations = self.rotations(num_frames)
        x = self.embed(streams)  # (b, f, s, d)
        for index, block in enumerate(self.blocks):
            if index == self.first_temporal_block and not rotations:
                x = x + rearrange(self.given(self.frame_positions, num_frames), "f d -> f 1 d")
            inputs = (x, condition, list(num_frames.values()), rotations.get(self.axes[index]))
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)  # (b, f, s, d)
        patches = self.final_layer(x, condition, num_frames)
        return {
            stream.name: rearrange(
                patches[stream.name],  # (b, f, s, p p c)
                "b f (h w) (p q c) -> b c f (h p) (w q)",
                h=stream.height // self.patch,
                p=self.patch,
                q=self.patch,
            )
            for stream in self.layout.streams
            if stream.name in num_frames
        }

    def condition(self, timestep: Tensor | dict[str, Tensor], labels: Tensor | None, names: list[str]) -> Tensor:
        """What modulates the tokens: (b, 1, d), or (b, streams, d) where streams (in order: `names`) have own times."""
        times = [timestep] if isinstance(timestep, Tensor) else [timestep[name] for name in names]
        condition = torch.stack([self.time_embedding(time) for time in times], dim=1)
        if not self.num_classes:
            return condition
        if labels is None:
            labels = torch.full_like(times[0], self.num_classes, dtype=torch.long)
        return condition + rearrange(self.label_embedding(labels), "b d -> b 1 d")

    def rotations(self, num_frames: dict[str, int]) -> dict[Axis, Tensor]:
        """Cosines and sines for attention over each axis, (2, n, d_head / 2); {} without rotary positions.

        Attention sees differences of positions only, so one frame stands for all where it mixes the patches of a frame,
        and one patch where it mixes the frames of a patch.
        """
        if self.architecture.positions != "rope":
            return {}
        rotation = self.given(self.rotation, num_frames, dim=1)  # (2, f, s, d_head / 2)
        return {
            "space": rotation.select(dim=1, index=0),
            "time": rotation.select(dim=2, index=0),
            "both": rearrange(rotation, "two f s d -> two (f s) d"),
        }

    def given(self, table: Tensor, num_frames: dict[str, int], dim: int = 0) -> Tensor:
        """The rows of a table over all frames of the layout that belong to the first `num_frames` of the streams."""
        own = table.split([stream.frames for stream in self.layout.streams], dim=dim)
        rows = dict(zip((stream.name for stream in self.layout.streams), own, strict=True))
        return torch.cat([rows[name].narrow(dim, 0, num) for name, num in num_frames.items()], dim=dim)

    def embed(self, streams: dict[str, Tensor]) -> Tensor:
        """{stream: (b, C, T, h, w)} -> tokens (b, f, s, d): patches and positions, streams one after the other."""
        frames = []
        for index, stream in enumerate(self.layout.streams):
            if stream.name not in streams:
                continue
            patches = rearrange(
                streams[stream.name], "b c f (h p) (w q) -> b f (h w) (c p q)", p=self.patch, q=self.patch
            )
            tokens = self.patch_embeddings[stream.name](patches)  # (b, f_stream, s, d)
            if len(self.layout.streams) > 1:
                tokens = tokens + self.stream_embedding[index]
            frames.append(tokens)
        tokens = torch.cat(frames, dim=1)
        return tokens if self.architecture.positions == "rope" else tokens + self.patch_positions
