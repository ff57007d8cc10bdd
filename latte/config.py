"""Options of the diffusion transformer and the record from which a trained one is rebuilt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from latte.latent_layout import KEYFRAME, LatentLayout

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}  # depth, width, heads
CUSTOM_HEAD_SIZE = 64
SMALLEST_ROTATED_HEAD = 6  # a pair of channels for each of time, row and column


@dataclass(frozen=True)
class LatteConfig:
    """Architecture and objective of Latte."""

    size: str = "S/2"  # S, B, L or XL and the patch size (S/2, XL/4), or custom: depth, width and patch below
    depth: int = 8  # number of blocks (size custom)
    width: int = 192  # channels of a token (size custom)
    heads: int = 0  # attention heads; 0 = those of the size (XL: 16 of 72 channels), custom: one per 64 channels
    patch: int = 2  # latent pixels on a side of a token (size custom)
    mlp: str = "gelu"  # gelu (as Latte) or swiglu (gated, as many parameters)
    mlp_ratio: float = 4.0  # width of the MLP over the width of a token; swiglu takes two thirds of it
    layout: str = "keyframe_first"  # how latent parts become tokens: keyframe_first, channel or tokens
    attention: str = "full"  # full (all tokens at once) or factorised (space and time in turn, as Latte)
    positions: str = "sincos"  # sincos (added to the tokens, as Latte) or rope (queries and keys rotated in 3-D)
    qk_norm: bool = False  # normalise queries and keys, for stability in bf16
    gradient_checkpointing: bool = False  # recompute activations in the backward pass to save memory
    label_dropout: float = 0.1  # share of clips trained without their class, needed for guidance
    objective: str = "flow"  # flow (rectified flow), epsilon (DDPM with learned variance, as Latte) or v (DDPM)
    part_weights: dict[str, float] = field(
        default_factory=dict
    )  # weight of a latent part's elements, 1 where not named
    time_mean: float = 0.0  # flow: mean of the logit of training times (0 = data, 1 = noise)
    time_std: float = 1.0  # flow: standard deviation of that logit
    min_snr_gamma: float = 0.0  # epsilon, v: weight of low noise is cut above this signal-to-noise ratio; 0 = off
    zero_terminal_snr: bool = False  # v: rescale the noise schedule so that its last step holds noise alone
    clean_keyframe_share: float = 0.0  # share of clips trained with a clean keyframe, needed for image-to-video
    independent_times_share: float = 0.0  # share of clips whose streams have noise levels of their own
    image_share: float = 0.0  # share of clips of which only the first frame is trained, as an image

    def dimensions(self) -> tuple[int, int, int, int]:
        """Depth, width, heads and patch size; raises ValueError for a size that does not exist."""
        if self.size == "custom":
            depth, width, heads, patch = self.depth, self.width, max(self.width // CUSTOM_HEAD_SIZE, 1), self.patch
        else:
            name, _, number = self.size.partition("/")
            if name not in SIZES or number not in ("1", "2", "4", "8"):
                raise ValueError(f"latte.size is {self.size!r}, expected custom or S, B, L, XL with /1, /2, /4 or /8.")
            depth, width, heads, patch = *SIZES[name], int(number)
        heads = self.heads or heads
        if min(depth, width, heads, patch) < 1 or width % heads or width % 4:
            raise ValueError(
                f"latte.depth, width, heads, patch are {(depth, width, heads, patch)}: choose positive numbers, the "
                "width a multiple of 4 and of the number of heads."
            )
        if self.positions == "rope" and (width // heads % 2 or width // heads < SMALLEST_ROTATED_HEAD):
            raise ValueError(
                f"latte.positions rope needs heads of an even number of at least {SMALLEST_ROTATED_HEAD} channels, got "
                f"{width // heads}: choose other latte.heads."
            )
        return depth, width, heads, patch


@dataclass(frozen=True)
class LatteArchitecture(LatteConfig):
    """LatteConfig plus what the latents are: enough, with the VAE, to sample."""

    parts: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)  # part: shape, mean, std
    classes: Sequence[str] = ()  # names of the classes; none = unconditional

    @staticmethod
    def build(config: LatteConfig, parts: Mapping[str, Mapping], classes: Sequence[str]) -> "LatteArchitecture":
        """`parts`: {part: {"shape": [c, t, h, w], "mean": [c], "std": [c]}}, as in the metadata of the latent cache,
        with "rgb", its probe for previews, where there is one; fields of a subclass are no part of the architecture."""
        known: dict[str, dict] = {
            part: {key: list(entry[key]) for key in ("shape", "mean", "std")} for part, entry in parts.items()
        }
        for part in (part for part in parts if "rgb" in parts[part]):
            known[part]["rgb"] = dict(parts[part]["rgb"])
        options = {option.name: getattr(config, option.name) for option in fields(LatteConfig)}
        return LatteArchitecture(**options, parts=known, classes=list(classes))

    @staticmethod
    def from_dict(architecture: Mapping) -> "LatteArchitecture":
        """Read what `asdict` wrote; raises ValueError for keys that this version does not know."""
        unknown = sorted(set(architecture) - {option.name for option in fields(LatteArchitecture)})
        if unknown:
            raise ValueError(f"the Latte model has unknown settings {unknown}: load it with the version that wrote it.")
        return LatteArchitecture(**architecture)

    def layout_of_parts(self) -> LatentLayout:
        """The layout of the latent parts."""
        shapes = {part: [int(size) for size in entry["shape"]] for part, entry in self.parts.items()}
        return LatentLayout.build(self.layout, shapes)

    def check(self) -> None:
        """Raise ValueError for values that no model can have."""
        for option, value, allowed in (
            ("attention", self.attention, ("full", "factorised")),
            ("mlp", self.mlp, ("gelu", "swiglu")),
            ("positions", self.positions, ("sincos", "rope")),
            ("objective", self.objective, ("flow", "epsilon", "v")),
        ):
            if value not in allowed:
                raise ValueError(f"latte.{option} is {value!r}, expected one of {', '.join(allowed)}.")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"latte.label_dropout is {self.label_dropout}, expected a share from 0 to below 1.")
        check_objective(self)
        check_component_times(self, self.layout_of_parts())
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


def check_objective(options: LatteConfig) -> None:
    """Raise ValueError for options of another objective than `options.objective`."""
    if options.min_snr_gamma < 0 or (options.min_snr_gamma and options.objective == "flow"):
        raise ValueError(
            f"latte.min_snr_gamma is {options.min_snr_gamma} with objective {options.objective}: it must be 0, or "
            "positive with epsilon or v."
        )
    if options.zero_terminal_snr and options.objective != "v":
        raise ValueError(
            f"latte.zero_terminal_snr needs objective v, got {options.objective}: where nothing of the data is left "
            "epsilon says nothing about it, and flow ends there in any case."
        )


def check_component_times(options: LatteConfig, layout: LatentLayout) -> None:
    """Raise ValueError for shares of clips that do not exist or that this layout cannot be trained with."""
    names = ("clean_keyframe_share", "independent_times_share", "image_share")
    shares = {name: getattr(options, name) for name in names}
    if min(shares.values()) < 0 or sum(shares.values()) > 1:
        raise ValueError(f"the shares {shares} of latte must be from 0 to 1 and add up to 1 at most.")
    alone = any(stream.components == (KEYFRAME,) for stream in layout.streams) and len(layout.streams) > 1
    if (options.clean_keyframe_share or options.independent_times_share) and not alone:
        raise ValueError(
            "latte.clean_keyframe_share and independent_times_share need a keyframe with tokens of its own, but layout "
            f"{layout.name} has the streams {[stream.name for stream in layout.streams]}: set both to 0, or use "
            "latte.layout=keyframe_first with an autoencoder that has a keyframe."
        )
