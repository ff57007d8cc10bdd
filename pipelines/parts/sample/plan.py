"""Which videos a set of samples holds: class, seed, first frame and place on an arc of each."""

from collections.abc import Sequence

from latte.latte import Latte
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.first_frame import choose_first_frames
from pipelines.run.file_names import file_name


def plan_samples(config: Experiment, model: Latte) -> list[dict]:
    """What to generate, one entry per video: {"index", "class", "label", "seed", "name"}.

    Also "first_frame" (a file) where one is given, and in an interpolation "place", from 0, the first seed, to
    per_class - 1, the second. Raises ValueError for an unknown class.
    """
    names, sample = model.architecture.classes, config.sample
    if not names and sample.classes:
        raise ValueError(
            f"sample.classes is {list(sample.classes)}, but this Latte was trained without classes: leave it empty"
        )
    labels = [class_number(wanted, names) for wanted in sample.classes] or list(range(len(names))) or [-1]
    plan: list[dict] = []
    for label in labels:
        for place in range(sample.per_class):
            index, name = len(plan), names[label] if label >= 0 else "video"
            entry = {
                "index": index,
                "class": name if label >= 0 else None,
                "label": label,
                "seed": sample.interpolate[0] if sample.interpolate else sample.seed + index,
                "name": f"{index:05d}-{file_name(name)}",
            }
            if sample.interpolate:
                entry["place"] = place
            plan.append(entry)
    if sample.first_frame:
        files = choose_first_frames(sample.first_frame, [entry["class"] for entry in plan])
        plan = [{**entry, "first_frame": str(file)} for entry, file in zip(plan, files, strict=True)]
    return plan


def class_number(wanted: str, names: Sequence[str]) -> int:
    """A class by name or number."""
    if wanted in names:
        return list(names).index(wanted)
    by_place = not any(name.isdigit() for name in names)  # else 2 may mean either
    if wanted.isdigit() and int(wanted) < len(names) and by_place:
        return int(wanted)
    known = ", ".join(names[:10]) + (f" ... ({len(names)} in all)" if len(names) > 10 else "")
    places = ", numbered from 0" if by_place else ""
    raise ValueError(f"sample.classes names {wanted!r}, but the classes are {known}{places}")
