"""What every video autoencoder of this project offers; the stages, the trainer and the tests know only this.

A video autoencoder gives parts: keyframe, motion and residual latents, or one. What pictures and scores show of a coded
clip, in pixels, are components.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import repeat
from omegaconf import OmegaConf
from torch import nn

from vae.gaussian import Gaussian, Generators
from vae.tiling import CausalNetwork, Place, Tiling, remembering, tiled

TEMPORAL_COMPRESSION = 4
Latents = dict[str, torch.Tensor]
Config = TypeVar("Config")


def typed_config(config_class: type[Config], values: dict) -> Config:
    """The dict of a saved model's config -> its dataclass; unknown keys and wrong types are refused."""
    merged = OmegaConf.merge(OmegaConf.structured(config_class), dict(values))
    return cast(Config, OmegaConf.to_object(merged))


@dataclass(frozen=True)
class ComponentPair:
    """A decoded component beside what it should be, for the component losses; both (b, 3, t, h, w)."""

    decoded: torch.Tensor
    target: torch.Tensor
    starts_with_image: bool  # frame 0 stands alone; the others come in groups of four


@dataclass(frozen=True)
class Coded:
    """Everything one training pass produces."""

    posterior: dict[str, Gaussian]
    latents: Latents
    reconstruction: torch.Tensor  # (b, 3, t, h, w), not clipped
    components: dict[str, ComponentPair]
    statistics: dict[str, torch.Tensor]  # scalars worth logging


@dataclass(frozen=True)
class Encoding:
    """posterior: what to cache. latents: what was used for closed-loop prediction, i.e. what to decode."""

    posterior: dict[str, Gaussian]
    latents: Latents
    clip_shape: tuple[int, int, int]  # (t, h, w) of what was encoded, before padding: what `decode` crops to


class VideoAutoencoder(ModelMixin, ConfigMixin):
    """Base of all video autoencoders. A video is (b, 3, t, h, w) in [-1, 1]; a latent {part: (b, c, t', h', w')}.

    Networks want 4n + 1 frames and sizes that are multiples of `size_multiple`; encode pads anything else and
    decode crops it back. A model implements shapes, `encode_chunk` and `decode_chunk`; a whole clip is one chunk.
    """

    block_class: type[nn.Module]  # what the networks repeat: `vae.compile` compiles each of these by itself
    # components that pictures show between original and reconstruction, in reading order, and how each is drawn:
    # pixels, flow or difference; `components_chunk` gives them as "decoded_NAME"
    picture_rows: Mapping[str, str] = {}
    causal: bool  # latents of earlier frames do not depend on later ones
    open_loop: bool = True  # no part's posterior depends on what is drawn for another: moments may be sampled later
    size_multiple: int
    architecture: Any  # the options it was built with
    components_are_trained: bool = True  # by losses of their own; else a prediction's gradient must reach them
    tiling: Tiling | None = None

    # ------------------------------------------------------------------ what a model implements

    def latent_shapes(self, clip_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int, int]]:
        """(t, h, w) of a clip -> (c, t', h', w') of every part."""
        raise NotImplementedError

    def encode_chunk(self, video: torch.Tensor, state: Any, sample: bool, generator: Generators) -> Encoding:
        """1 + 4n frames, or 4n where `state` has seen a chunk before; sizes are multiples of `size_multiple`."""
        raise NotImplementedError

    def decode_chunk(self, latents: Latents, state: Any) -> torch.Tensor:
        """The frames of one chunk, (b, 3, t, h, w), not clipped."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what a model may have beyond that

    def new_state(self) -> Any:
        """What coding one clip carries from chunk to chunk."""
        return None

    def components_chunk(self, video: torch.Tensor, state: Any) -> dict[str, torch.Tensor]:
        """What pictures and scores show of a chunk: at least "reconstruction", (b, 3, t, h, w)."""
        latents = self.encode_chunk(video, state, sample=False, generator=None).latents
        return {"reconstruction": self.decode_chunk(latents, state)}

    def forward(self, video: torch.Tensor, sample: bool = True, generator: Generators = None) -> Coded:
        """Encode and decode in one pass, keeping what the losses need; ValueError for a clip that needs padding."""
        self.check_video(video)
        encoding = self.encode(video, sample, generator)
        reconstruction = self.decode(encoding.latents)
        pairs = {"video": ComponentPair(reconstruction, video, starts_with_image=True)}
        return Coded(encoding.posterior, encoding.latents, reconstruction, pairs, {})

    @staticmethod
    def has_motion_module(architecture: Any) -> bool:
        """Whether a model with this configuration has a motion module, which must be trained first."""
        return False

    def motion_modules(self) -> list[nn.Module]:
        """What phase 1 of the decoupled adaptation freezes."""
        return []

    def keyframe_modules(self) -> list[nn.Module]:
        """What phase 2 of the decoupled adaptation freezes."""
        return []

    # ------------------------------------------------------------------ whole clips

    @apply_forward_hook  # CPU offload moves the weights before this, as before `forward`
    def encode(self, video: torch.Tensor, sample: bool = False, generator: Generators = None) -> Encoding:
        """video: (b, 3, t, h, w) in [-1, 1] of any length and size; padded with its last frame and its border.

        sample=True draws the latents, otherwise they are the posterior's means.
        """
        return self._encode_padded(video, self.new_state(), sample, generator)

    @apply_forward_hook
    def decode(self, latents: Latents, clip_shape: tuple[int, int, int] | None = None) -> torch.Tensor:
        """{part: (b, c, t', h', w')} -> video (b, 3, t, h, w), not clipped; cropped to clip_shape = (t, h, w)."""
        video = self.decode_chunk(latents, self.new_state())
        return video if clip_shape is None else crop(video, clip_shape)

    def reconstruct(self, video: torch.Tensor) -> torch.Tensor:
        """Encode and decode a video of any length and size: (b, 3, t, h, w) in [-1, 1] -> the same, clipped."""
        encoding = self.encode(video)
        return self.decode(encoding.latents, encoding.clip_shape).clamp(-1, 1)

    def decode_components(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """What pictures and scores show of a coded clip of any length and size: at least "reconstruction"."""
        return self._padded_components(video, self.new_state())

    # ------------------------------------------------------------------ chunk by chunk

    def encode_chunks(self, chunks: Iterable[torch.Tensor]) -> Iterator[Encoding]:
        """Encode 1 + 4n frames, then 4n at a time (the last: any number): equals the whole, in constant memory.

        ValueError for a chunk after one that had another number of frames.
        """
        self._require_causal()
        state = self.new_state()
        for index, chunk in enumerate(ending_with_latents(chunks)):
            yield self._encode_padded(chunk, state, sample=False, generator=None, continues=index > 0)

    def decode_chunks(self, chunks: Iterable[Latents]) -> Iterator[torch.Tensor]:
        """Decode what `encode_chunks` gave, chunk by chunk; padding is not cropped."""
        self._require_causal()
        state = self.new_state()
        for latents in chunks:
            yield self.decode_chunk(latents, state)

    def component_chunks(self, chunks: Iterable[torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """`decode_components` of chunks as in `encode_chunks`."""
        self._require_causal()
        state = self.new_state()
        for index, chunk in enumerate(ending_with_latents(chunks)):
            yield self._padded_components(chunk, state, continues=index > 0)

    def _encode_padded(
        self, video: torch.Tensor, state: Any, sample: bool, generator: Generators, continues: bool = False
    ) -> Encoding:
        check_is_video(video)
        encoding = self.encode_chunk(self.pad_clip(video, continues), state, sample, generator)
        return Encoding(encoding.posterior, encoding.latents, tuple(video.shape[2:]))

    def _padded_components(self, video: torch.Tensor, state: Any, continues: bool = False) -> dict[str, torch.Tensor]:
        check_is_video(video)
        components = self.components_chunk(self.pad_clip(video, continues), state)
        return {name: crop(x, tuple(video.shape[2:])) for name, x in components.items()}

    def _require_causal(self) -> None:
        if not self.causal:
            raise ValueError(
                f"this {type(self).__name__} averages over the whole clip and cannot be coded in chunks: "
                "code whole clips, or groups of pictures of their own"
            )

    # ------------------------------------------------------------------ sizes

    def check_video(self, video: torch.Tensor) -> None:
        """Raise ValueError unless `video` can be coded without padding."""
        check_is_video(video)
        num_frames, height, width = video.shape[2:]
        if num_frames % TEMPORAL_COMPRESSION != 1 or height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"a training clip must have 4n + 1 frames and sizes that are multiples of {self.size_multiple}, got "
                f"{num_frames} frames of {height} x {width}: change data.num_frames and data.resolution"
            )

    def pad_clip(self, video: torch.Tensor, continues: bool = False) -> torch.Tensor:
        """Repeat the last frame to 4n + 1 frames (4n where the clip continues one) and replicate the border."""
        missing = -(video.shape[2] - int(not continues)) % TEMPORAL_COMPRESSION
        bottom, right = -video.shape[3] % self.size_multiple, -video.shape[4] % self.size_multiple
        if missing:
            last = repeat(video[:, :, -1], "b c h w -> b c t h w", t=missing)
            video = torch.cat([video, last], dim=2)
        return F.pad(video, (0, right, 0, bottom, 0, 0), mode="replicate") if bottom or right else video

    # ------------------------------------------------------------------ tiles

    def enable_tiling(self, tile_size: int = 256, overlap: int = 64) -> None:
        """Run the networks on tiles of tile_size pixels that overlap: less memory for large frames.

        The warp still sees the whole frame. ValueError unless both are multiples of the model's size_multiple.
        """
        multiple = 2 * self.size_multiple  # motion may be coded at half the size
        if tile_size % multiple or overlap % multiple:
            raise ValueError(f"tile_size {tile_size} and overlap {overlap} must be multiples of {multiple} pixels")
        self.tiling = Tiling(tile_size, overlap)

    def disable_tiling(self) -> None:
        """Run the networks on whole frames again."""
        self.tiling = None

    def by_tiles(
        self, network: CausalNetwork, x: torch.Tensor, cell: int, out_cell: int, memory: dict[Place, Any] | None = None
    ) -> torch.Tensor:
        """network(x, past of the chunk before), tile by tile where tiling is on; returns its result.

        x: (b, c, t, h, w) with cells of `cell` pixels of the video; the network's result has cells of `out_cell`.
        memory: keeps the pasts of this network from chunk to chunk; None: a clip is one chunk.
        """
        whole = remembering(network, {} if memory is None else memory)
        if self.tiling is None:
            return whole(x, (0, 0))
        tile, overlap = self.tiling.tile_size // cell, self.tiling.overlap // cell
        return tiled(whole, x, tile, overlap, Fraction(cell, out_cell))


def check_is_video(video: torch.Tensor) -> None:
    """Raise ValueError unless the shape is (b, 3, t, h, w) with at least one frame."""
    if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
        raise ValueError(f"a video must be (b, 3, t, h, w) with at least one frame, got {tuple(video.shape)}")


def ending_with_latents(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Pass chunks of a video on; ValueError where one before the last does not end where a latent frame ends."""
    ragged = 0
    for index, chunk in enumerate(chunks):
        check_is_video(chunk)
        if ragged:
            raise ValueError(
                f"chunk {index - 1} of a video has {ragged} frames, but of all before the last the first must have "
                f"{TEMPORAL_COMPRESSION}n + 1 and the others {TEMPORAL_COMPRESSION}n: cut with vae.streaming.rechunk"
            )
        num_frames = chunk.shape[2]
        ragged = num_frames if (num_frames - int(index == 0)) % TEMPORAL_COMPRESSION else 0
        yield chunk


def crop(video: torch.Tensor, clip_shape: tuple[int, int, int]) -> torch.Tensor:
    """The first (t, h, w) of (b, c, t, h, w)."""
    num_frames, height, width = clip_shape
    return video[:, :, :num_frames, :height, :width]
