"""Options of the diffusion transformer, and the two records from which a trained one is rebuilt.

A `LatteArchitecture` says what weights fit and what sampling must know, a `LatteTraining` how the weights were trained.
A YAML sets the options of both as one `LatteConfig`; a saved model's config.json holds them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from latte.latent_layout import KEYFRAME, LAYOUTS, LatentLayout

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}  # depth, width, heads
NAMED_SIZES = tuple(f"{name}/{patch}" for name in SIZES for patch in (1, 2, 4, 8))
CUSTOM_HEAD_SIZE = 64
SMALLEST_ROTATED_HEAD = 6  # a pair of channels for each of time, row and column
CHOICES = {
    "layout": LAYOUTS,
    "attention": ("full", "factorised"),
    "mlp": ("gelu", "gelu_exact", "swiglu"),
    "positions": ("sincos", "rope"),
    "objective": ("flow", "epsilon", "v"),
}


@dataclass(frozen=True)
class LatteNetwork:
    """The network and what it predicts."""

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
    early_head: int = (
        0  # a second head predicts from the tokens after so many blocks: for sample.internal_scale; 0 = none
    )
    qk_norm: bool = False  # normalise queries and keys, for stability in bf16
    objective: str = "flow"  # flow (rectified flow), epsilon (DDPM with learned variance, as Latte) or v (DDPM)
    zero_terminal_snr: bool = False  # v: rescale the noise schedule so that its last step holds noise alone

    def __post_init__(self) -> None:
        for option, allowed in CHOICES.items():
            if (value := getattr(self, option)) not in allowed:
                raise ValueError(f"latte.{option} is {value!r}, expected one of {', '.join(allowed)}.")
        self.dimensions()
        if self.zero_terminal_snr and self.objective != "v":
            raise ValueError(
                f"latte.zero_terminal_snr needs objective v, got {self.objective}: where nothing of the data is left "
                "epsilon says nothing about it, and flow ends there in any case."
            )

    def dimensions(self) -> tuple[int, int, int, int]:
        """Depth, width, heads and patch size; raises ValueError for a size that does not exist."""
        if self.size == "custom":
            depth, width, heads, patch = self.depth, self.width, max(self.width // CUSTOM_HEAD_SIZE, 1), self.patch
        else:
            if self.size not in NAMED_SIZES:
                raise ValueError(f"latte.size is {self.size!r}, expected custom or S, B, L, XL with /1, /2, /4 or /8.")
            name, _, number = self.size.partition("/")
            depth, width, heads, patch = *SIZES[name], int(number)
        heads = self.heads or heads
        if not 0 <= self.early_head < depth:
            raise ValueError(
                f"latte.early_head is {self.early_head}, but there are {depth} blocks: choose a block before the last, "
                "or 0 for no second head."
            )
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
class LatteTraining:
    """How the network is trained; none of it changes which weights fit."""

    label_dropout: float = 0.1  # share of clips trained without their class, needed for guidance
    part_weights: dict[str, float] = field(default_factory=dict)  # weight of a part's elements, 1 where not named
    time_mean: float = 0.0  # flow: mean of the logit of training times (0 = data, 1 = noise)
    time_std: float = 1.0  # flow: standard deviation of that logit
    min_snr_gamma: float = 0.0  # epsilon, v: weight of low noise is cut above this signal-to-noise ratio; 0 = off
    clean_keyframe_share: float = 0.0  # share of clips trained with a clean keyframe, needed for image-to-video
    independent_times_share: float = 0.0  # share of clips whose streams have noise levels of their own
    image_share: float = 0.0  # share of clips of which only the first frame is trained, as an image
    gradient_checkpointing: bool = False  # recompute activations in the backward pass to save memory

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"latte.label_dropout is {self.label_dropout}, expected a share from 0 to below 1.")
        if min(self.part_weights.values(), default=1.0) <= 0:
            raise ValueError(f"latte.part_weights is {dict(self.part_weights)}, choose positive weights.")
        names = ("clean_keyframe_share", "independent_times_share", "image_share")
        shares = {name: getattr(self, name) for name in names}
        if min(shares.values()) < 0 or sum(shares.values()) > 1:
            raise ValueError(f"the shares {shares} of latte must be from 0 to 1 and add up to 1 at most.")


@dataclass(frozen=True)
class LatteConfig(LatteTraining, LatteNetwork):
    """All options of Latte, as the section `latte` of a YAML sets them."""

    def __post_init__(self) -> None:
        LatteNetwork.__post_init__(self)
        LatteTraining.__post_init__(self)
        check_weighting(self, self.objective)


@dataclass(frozen=True)
class LatteArchitecture(LatteNetwork):
    """The network and the latents that it was made for: with the VAE, all that sampling needs.

    Mean, std and rgb of a part and the names of the classes are facts about the data; a fine-tune brings its own.
    """

    # part: its shape (c, t, h, w), mean and std per channel and, where there is one, rgb, the probe for previews
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: Sequence[str] = ()  # names of the classes; none = unconditional

    def layout_of_parts(self) -> LatentLayout:
        """The layout of the latent parts."""
        shapes = {part: [int(size) for size in entry["shape"]] for part, entry in self.parts.items()}
        return LatentLayout.build(self.layout, shapes)


def build_records(
    config: LatteConfig, parts: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What a Latte is built of: `Latte(**build_records(...))`.

    config: the options, or a subclass with more of them; parts: {part: {"shape", "mean", "std"[, "rgb"], ...}}, as in
    the metadata of the latent cache. Returns {"architecture": LatteArchitecture, "training": LatteTraining} as dicts.
    """
    known = {
        part: {key: list(entry[key]) for key in ("shape", "mean", "std")}
        | ({"rgb": dict(entry["rgb"])} if "rgb" in entry else {})
        for part, entry in parts.items()
    }
    network, training = (
        {option.name: getattr(config, option.name) for option in fields(record)}
        for record in (LatteNetwork, LatteTraining)
    )
    architecture = LatteArchitecture(**network, parts=known, classes=list(classes))
    return {"architecture": asdict(architecture), "training": asdict(LatteTraining(**training))}


def read_records(architecture: Mapping, training: Mapping | None) -> tuple[LatteArchitecture, LatteTraining]:
    """Read what `build_records` made, training None: what older versions saved.

    Raises ValueError for options that this version does not know, and for values that no model can have.
    """
    if training is None:
        architecture, training = split_flat_record(architecture)
    for record, known in ((architecture, LatteArchitecture), (training, LatteTraining)):
        if unknown := sorted(set(record) - {option.name for option in fields(known)}):
            raise ValueError(f"the Latte model has unknown settings {unknown}: load it with the version that wrote it.")
    records = LatteArchitecture(**architecture), LatteTraining(**training)
    check_records(*records)
    return records


def split_flat_record(flat: Mapping) -> tuple[dict[str, Any], dict[str, Any]]:
    """Architecture and training of the one record that held both in models saved before they were apart."""
    names = {option.name for option in fields(LatteTraining)}
    if missing := sorted(names - set(flat)):
        raise ValueError(f"the Latte model does not say how it was trained ({missing}): train or export it again.")
    architecture = {name: value for name, value in flat.items() if name not in names}
    return architecture, {name: flat[name] for name in names}


def check_records(architecture: LatteArchitecture, training: LatteTraining) -> None:
    """Raise ValueError where the training does not fit the architecture, or the architecture its latents."""
    check_weighting(training, architecture.objective)
    if unknown := sorted(set(training.part_weights) - set(architecture.parts)):
        raise ValueError(f"latte.part_weights names {unknown}, but the latent parts are {sorted(architecture.parts)}.")
    layout = architecture.layout_of_parts()
    alone = any(stream.parts == (KEYFRAME,) for stream in layout.streams) and len(layout.streams) > 1
    if (training.clean_keyframe_share or training.independent_times_share) and not alone:
        raise ValueError(
            "latte.clean_keyframe_share and independent_times_share need a keyframe with tokens of its own, but layout "
            f"{layout.name} has the streams {[stream.name for stream in layout.streams]}: set both to 0, or use "
            "latte.layout=keyframe_first with an autoencoder that has a keyframe."
        )
    *_, patch = architecture.dimensions()
    for stream in layout.streams:
        if stream.height % patch or stream.width % patch:
            raise ValueError(
                f"patches of {patch} do not tile latents of {stream.height}x{stream.width}: choose another patch "
                "size in latte.size or latte.patch."
            )


def check_weighting(training: LatteTraining, objective: str) -> None:
    """Raise ValueError for a weighting of noise levels that the objective does not have."""
    if training.min_snr_gamma < 0 or (training.min_snr_gamma and objective == "flow"):
        raise ValueError(
            f"latte.min_snr_gamma is {training.min_snr_gamma} with objective {objective}: it must be 0, or "
            "positive with epsilon or v."
        )
