"""Starts a Latte from the weights of another: one with other training, classes, statistics of latents or depth.

Parameters go by name and shape, rows of an embedding by what they stand for; the rest stays as it is.
"""

from collections.abc import Sequence, Set
from pathlib import Path

from torch import Tensor

from latte.latte import Latte

NO_CLASS = ""
SHOWN = 4  # names in a message


def take_fitting_weights(model: Latte, source: Latte, path: Path | str) -> list[str]:
    """Copy into `model` what fits of `source`, which was read from `path`; returns what did not fit, in phrases.

    Raises ValueError, naming the option, where no block fits or the weights would mean nothing in `model`, trained as
    they were to predict something else, or other latents.
    """
    check_kind(model, source, path)
    ours, theirs = model.state_dict(), source.state_dict()
    taken = {name: tensor for name, tensor in theirs.items() if name in ours and tensor.shape == ours[name].shape}
    for name, rows in row_names(model).items():
        if name in ours and name in theirs:
            taken[name] = rows_by_name(ours[name], rows, theirs[name], row_names(source)[name])
    model.load_state_dict(ours | taken)
    return describe_rest(model, source, taken.keys())


def check_kind(model: Latte, source: Latte, path: Path | str) -> None:
    """Raise ValueError where no block fits, or where equal shapes of weights would mean something else."""
    (got_width, got_heads), (width, heads) = (own.architecture.dimensions()[1:3] for own in (source, model))
    got_parts, parts = ({part: shape[0] for part, shape in own.layout.parts.items()} for own in (source, model))
    got_streams, streams = ([stream.name for stream in own.layout.streams] for own in (source, model))
    got_objective, objective = source.architecture.objective, model.architecture.objective
    for option, got, expected, is_other in (
        ("the width of latte.size", got_width, width, got_width != width),
        ("latte.heads", got_heads, heads, got_heads != heads),
        ("latte.objective", got_objective, objective, got_objective != objective),
        ("the latent parts and their channels", got_parts, parts, got_parts != parts),
        ("latte.layout, that is in its streams", got_streams, streams, not set(got_streams) & set(streams)),
    ):
        if is_other:
            raise ValueError(
                f"the model in {path} has weights of no use here: it differs in {option} (got {got}, expected "
                f"{expected}), set the same, or name another model."
            )


def row_names(model: Latte) -> dict[str, list[str]]:
    """What the rows of an embedding stand for, {name of the parameter: names of its rows}."""
    return {
        "label_embedding.weight": [*model.architecture.classes, NO_CLASS],
        "stream_embedding": [stream.name for stream in model.layout.streams],
    }


def rows_by_name(ours: Tensor, our_names: Sequence[str], theirs: Tensor, their_names: Sequence[str]) -> Tensor:
    """`ours` (n, d) with those rows of `theirs` (m, d) whose name it has too."""
    rows, places = ours.clone(), {name: row for row, name in enumerate(their_names)}
    for row, name in enumerate(our_names):
        if name in places:
            rows[row] = theirs[places[name]]
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
