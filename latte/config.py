"""Options of the diffusion transformer and the record from which a trained one is rebuilt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from latte.latent_layout import LatentLayout

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}  # depth, width, heads


@dataclass(frozen=True)
class LatteConfig:
    """Architecture and objective of Latte."""

    size: str = "S/2"  # S, B, L or XL and the patch size (S/2, XL/4), or custom: depth, width, heads and patch below
    depth: int = 8  # number of blocks (size custom)
    width: int = 192  # channels of a token (size custom)
    heads: int = 3  # attention heads (size custom)
    patch: int = 2  # latent pixels on a side of a token (size custom)
    mlp_ratio: float = 4.0  # width of the MLP over the width of a token
    layout: str = "keyframe_first"  # how latent parts become tokens: keyframe_first, channel or tokens
    attention: str = "full"  # full (all tokens at once) or factorised (space and time in turn, as Latte)
    qk_norm: bool = False  # normalise queries and keys, for stability in bf16
    gradient_checkpointing: bool = False  # recompute activations in the backward pass to save memory
    label_dropout: float = 0.1  # share of clips trained without their class, needed for guidance
    objective: str = "flow"  # flow (rectified flow) or epsilon (DDPM with learned variance, as Latte)
    part_weights: dict[str, float] = field(
        default_factory=dict
    )  # weight of a latent part's elements, 1 where not named
    time_mean: float = 0.0  # flow: mean of the logit of training times (0 = data, 1 = noise)
    time_std: float = 1.0  # flow: standard deviation of that logit


@dataclass(frozen=True)
class LatteArchitecture(LatteConfig):
    """LatteConfig plus what the latents are: enough, with the VAE, to sample."""

    parts: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)  # part: shape, mean, std
    classes: Sequence[str] = ()  # names of the classes; none = unconditional

    @staticmethod
    def build(config: LatteConfig, parts: Mapping[str, Mapping], classes: Sequence[str]) -> "LatteArchitecture":
        """`parts`: {part: {"shape": [c, t, h, w], "mean": [c], "std": [c]}}, as in the metadata of the latent cache;
        fields that a subclass of LatteConfig adds are no part of the architecture."""
        known = {part: {key: list(entry[key]) for key in ("shape", "mean", "std")} for part, entry in parts.items()}
        options = {option.name: getattr(config, option.name) for option in fields(LatteConfig)}
        return LatteArchitecture(**options, parts=known, classes=list(classes))

    @staticmethod
    def from_dict(architecture: Mapping) -> "LatteArchitecture":
        """Read what `asdict` wrote; raises ValueError for keys that this version does not know."""
        unknown = sorted(set(architecture) - {option.name for option in fields(LatteArchitecture)})
        if unknown:
            raise ValueError(f"the Latte model has unknown settings {unknown}: load it with the version that wrote it.")
        return LatteArchitecture(**architecture)

    def dimensions(self) -> tuple[int, int, int, int]:
        """Depth, width, heads and patch size; raises ValueError for a size that does not exist."""
        if self.size == "custom":
            dimensions = (self.depth, self.width, self.heads, self.patch)
        else:
            name, _, patch = self.size.partition("/")
            if name not in SIZES or patch not in ("1", "2", "4", "8"):
                raise ValueError(f"latte.size is {self.size!r}, expected custom or S, B, L, XL with /1, /2, /4 or /8.")
            dimensions = (*SIZES[name], int(patch))
        _, width, heads, _ = dimensions
        if min(dimensions) < 1 or width % heads or width % 4:
            raise ValueError(
                f"latte.depth, width, heads, patch are {dimensions}: choose positive numbers, the width a multiple "
                "of 4 and of the number of heads."
            )
        return dimensions

    def layout_of_parts(self) -> LatentLayout:
        """The layout of the latent parts."""
        shapes = {part: [int(size) for size in entry["shape"]] for part, entry in self.parts.items()}
        return LatentLayout.build(self.layout, shapes)

    def check(self) -> None:
        """Raise ValueError for values that no model can have."""
        for option, value, allowed in (
            ("attention", self.attention, ("full", "factorised")),
            ("objective", self.objective, ("flow", "epsilon")),
        ):
            if value not in allowed:
                raise ValueError(f"latte.{option} is {value!r}, expected one of {', '.join(allowed)}.")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"latte.label_dropout is {self.label_dropout}, expected a share from 0 to below 1.")
        if unknown := sorted(set(self.part_weights) - set(self.parts)):
            raise ValueError(f"latte.part_weights names {unknown}, but the latent parts are {sorted(self.parts)}.")
        if min(self.part_weights.values(), default=1.0) <= 0:
            raise ValueError(f"latte.part_weights is {dict(self.part_weights)}, choose positive weights.")
        *_, patch = self.dimensions()
        for stream in self.layout_of_parts().streams:
            if stream.height % patch or stream.width % patch:
                raise ValueError(
                    f"patches of {patch} do not tile latents of {stream.height}x{stream.width}: choose another patch "
                    "size in latte.size or latte.patch."
                )
