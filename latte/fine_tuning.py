"""Starts a Latte from the weights of another: one with other training, classes, statistics of latents or depth.

Parameters go by name and shape, rows of the label embedding by the names of the classes; the rest stays as it is.
"""

from collections.abc import Sequence, Set
from pathlib import Path

from torch import Tensor

from latte.latte import Latte

LABELS = "label_embedding.weight"
SHOWN = 4  # names in a message


def take_fitting_weights(model: Latte, source: Latte, path: Path | str) -> list[str]:
    """Copy into `model` what fits of `source`, which was read from `path`; returns what did not fit, in phrases.

    Raises ValueError, naming the option, where the weights would mean nothing in `model`: no block fits, or they were
    trained to predict something else or other latents.
    """
    check_meaning(model, source, path)
    ours, theirs = model.state_dict(), source.state_dict()
    taken = {name: tensor for name, tensor in theirs.items() if name in ours and tensor.shape == ours[name].shape}
    if not any(name.startswith("blocks.") for name in taken):
        raise ValueError(
            f"no block of the model in {path} fits: its width is {source.architecture.dimensions()[1]}, expected "
            f"{model.architecture.dimensions()[1]}: set the same latte.size or width, or name another model."
        )
    if LABELS in ours and LABELS in theirs:
        taken[LABELS] = label_rows(model, source)
    model.load_state_dict(ours | taken)
    return describe_rest(model, source, taken.keys())


def check_meaning(model: Latte, source: Latte, path: Path | str) -> None:
    """Raise ValueError where equal shapes of weights would mean something else in `model` than in `source`."""
    layouts = [own.layout for own in (source, model)]
    channels = [{part: shape[0] for part, shape in layout.parts.items()} for layout in layouts]
    widths, heads = zip(*(own.architecture.dimensions()[1:3] for own in (source, model)), strict=True)
    for option, got, expected in (
        ("objective", source.architecture.objective, model.architecture.objective),
        ("latent parts and their channels", *channels),
        ("layout", *([(stream.name, stream.first_time) for stream in layout.streams] for layout in layouts)),
        ("heads", *(heads if widths[0] == widths[1] else ("", ""))),
    ):
        if got != expected:
            raise ValueError(
                f"the model in {path} has other {option} (got {got}, expected {expected}), so its weights mean nothing "
                "here: set the same, or name another model."
            )


def label_rows(model: Latte, source: Latte) -> Tensor:
    """The label embedding (classes + 1, d) with the rows of the classes of the same name, and that of no class."""
    rows, theirs = model.state_dict()[LABELS].clone(), source.state_dict()[LABELS]
    places = {name: row for row, name in enumerate(source.architecture.classes)}
    for row, name in enumerate(model.architecture.classes):
        if name in places:
            rows[row] = theirs[places[name]]
    rows[model.num_classes] = theirs[source.num_classes]
    return rows


def describe_rest(model: Latte, source: Latte, taken: Set[str]) -> list[str]:
    """What of `model` is not from `source`, and what of `source` is not in `model`, in phrases."""
    new_weights = module_names(model.state_dict().keys() - taken, taken)
    left_weights = module_names(source.state_dict().keys() - taken, taken)
    ours, theirs = model.architecture, source.architecture
    new_classes = [name for name in ours.classes if name not in theirs.classes]
    left_classes = [name for name in theirs.classes if name not in ours.classes]
    statistics = [
        part
        for part, own in ours.parts.items()
        if any(list(own[key]) != list(theirs.parts[part][key]) for key in ("mean", "std"))
    ]
    options = [
        f"latte.{option} {getattr(theirs, option)}"
        for option in ("attention", "positions", "zero_terminal_snr")
        if getattr(ours, option) != getattr(theirs, option)
    ]
    phrases = {
        "new weights": new_weights,
        "left weights": [name for name in left_weights if name not in new_weights],
        "new classes": new_classes,
        "left classes": left_classes,
        "left statistics of latents": statistics,
        "trained with": options,
    }
    return [f"{phrase}: {some(names)}" for phrase, names in phrases.items() if names]


def module_names(tensors: Set[str], taken: Set[str]) -> list[str]:
    """The modules of `tensors`; a block of which nothing is taken as a whole, the others together as blocks.*."""
    used = {name.split(".")[1] for name in taken if name.startswith("blocks.")}
    modules = set()
    for tensor in tensors:
        first, *rest = tensor.removesuffix(".weight").removesuffix(".bias").split(".")
        if first == "blocks":
            rest = ["*", *rest[1:]] if rest[0] in used else rest[:1]
        modules.add(".".join([first, *rest]))
    return sorted(modules, key=lambda name: (len(name), name))


def some(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
