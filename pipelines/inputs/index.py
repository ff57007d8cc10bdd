"""The clip index of a run, as every stage after prepare_data opens it."""

import json
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from pipelines.data.clip_index import ClipIndex
from pipelines.data.synthetic import MovingShapesConfig
from pipelines.inputs.experiment import Experiment
from pipelines.run.stage import select

NOT_IN_INDEX = ("data.resolution", "data.flip", "data.memory_cache_gb", "data.probe_*")  # options it does not depend on


def refuse_flipped_shapes(config: Experiment) -> None:
    """ValueError where data.flip would change the classes of the embedded clips."""
    if config.data.flip and not config.data.root:
        raise ValueError(
            "data.flip is true, but data.root is empty, and flipped moving shapes would turn MoveLeft into MoveRight: "
            "give data.root=FOLDER, or data.flip=false"
        )


def open_index(config: Experiment) -> ClipIndex:
    """The clip index of the run, as every later stage uses it.

    Raises:
        ValueError: prepare_data has not finished in this run, or was called with other data options.
    """
    refuse_flipped_shapes(config)
    folder = Path(config.run.root) / config.run.name / "prepare_data"
    command = "run python pipelines/prepare_data.py with the same configuration"
    if not (folder / "index.json").exists():
        raise ValueError(f"there is no clip index in {folder}: {command}")
    made_with = json.loads((folder / "provenance.json").read_text())["settings"]["data"]
    made_with["shapes"] = asdict(MovingShapesConfig()) | made_with.get("shapes", {})  # what is new has its default
    wanted = json.loads(json.dumps(select(config, ("data",))["data"]))
    changed = [name for name in wanted if wanted[name] != made_with.get(name)]
    changed = [name for name in changed if not any(fnmatchcase(f"data.{name}", glob) for glob in NOT_IN_INDEX)]
    if changed:
        names = ", ".join(f"data.{name} (was {made_with.get(name)!r}, now {wanted[name]!r})" for name in changed)
        raise ValueError(f"the clip index in {folder} was made with other settings, {names}: {command}")
    index = ClipIndex.load(folder / "index.json")
    root = Path(config.data.root) if config.data.root else folder / "moving_shapes"
    if index.root.resolve() != (root.parent if root.is_file() else root).resolve():
        raise ValueError(f"the clip index in {folder} is of {index.root}, not of {root}: {command}")
    return index


# What may differ when a training run goes on: where and how fast the clips are read, not which.
DATA_MAY_CHANGE = ("data.root", "data.splits", "data.memory_cache_gb", "data.probe_*")


def index_input(index: ClipIndex) -> dict[str, dict[str, str]]:
    """The data set as an input of a stage, for its provenance."""
    return {"data set": {"path": str(index.root), "hash": index.fingerprint}}
