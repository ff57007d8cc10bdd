"""Finds, checks and splits the video files; makes the embedded moving shapes first where data.root is empty.

python pipelines/prepare_data.py [CONFIG.yaml ...] [data.root=FOLDER] [key=value ...]
"""

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from pipelines.data.clip_index import ClipIndex, build_index
from pipelines.data.synthetic import write_moving_shapes
from pipelines.experiment import Experiment
from pipelines.run.folder import StageFolder
from pipelines.run.stage import main, select

STAGE = "prepare_data"
SECTIONS = ("data", "run")
NOT_IN_INDEX = ("data.resolution", "data.flip", "data.memory_cache_gb", "data.probe_*")  # options it does not depend on
MAX_REJECTED_SHOWN = 20


def run(config: Experiment) -> None:
    """Writes runs/<run>/prepare_data/index.json; a second call checks only the files that are new or have changed.

    Raises:
        ValueError: data.root or data.splits are wrong, no file can be used, or the run has other data already.
    """
    refuse_flipped_shapes(config)
    settings = select(config, ("data",)) | {"run": {"seed": config.run.seed}}
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    # Data that moved to another place may go on being used; that it is the same is checked below.
    with folder.open(settings, may_change=(*NOT_IN_INDEX, "data.root", "data.splits")):
        if not folder.is_main:
            return
        index_file, data = folder.path / "index.json", config.data
        if not data.root:
            data = replace(data, root=str(folder.path / "moving_shapes"), flip=False)
            write_moving_shapes(folder.path / "moving_shapes", data.shapes)
        index = build_index(data, config.run.seed, probe_cache=folder.path / "checked_files.jsonl")
        if index_file.exists() and (before := ClipIndex.load(index_file)).fingerprint != index.fingerprint:
            if before.root.resolve() != index.root.resolve():
                raise ValueError(
                    f"{folder.path} was made from {before.root}, which holds other clips than {index.root}: choose "
                    "another run.name=, or remove the folder to make it again"
                )
            print(f"the files in {index.root} have changed: later stages of this run will have to be made again")
        index.save(index_file)
        print(describe_index(index))
        counts = {split: sum(entry.split == split for entry in index.entries) for split in ("train", "validation")}
        folder.finish({**counts, "rejected": len(index.rejected), "fingerprint": index.fingerprint})


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
    folder = Path(config.run.root) / config.run.name / STAGE
    command = "run python pipelines/prepare_data.py with the same configuration"
    if not (folder / "index.json").exists():
        raise ValueError(f"there is no clip index in {folder}: {command}")
    made_with = json.loads((folder / "provenance.json").read_text())["settings"]["data"]
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


def describe_index(index: ClipIndex) -> str:
    """Table per class (train, validation, rejected) and the rejected files with their reasons."""
    names = index.classes or ("(no classes)",)
    rows = {name: [0, 0, 0] for name in names}
    for entry in index.entries:
        rows[names[max(entry.label, 0)]][entry.split == "validation"] += 1
    for path, _ in index.rejected:
        owner = next((part for part in path.split("/")[:-1] if part in rows), None)
        rows.setdefault(owner or (names[0] if not index.classes else "(no class)"), [0, 0, 0])[2] += 1
    rows["total"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    width = max(len(name) for name in rows)
    lines = [f"{'class':<{width}}  {'train':>7}  {'validation':>10}  {'rejected':>8}"]
    lines += [f"{name:<{width}}  {a:>7}  {b:>10}  {c:>8}" for name, (a, b, c) in rows.items()]
    if index.rejected:
        lines += ["", f"{len(index.rejected)} files are not used:"]
        lines += [f"  {path}: {reason}" for path, reason in index.rejected[:MAX_REJECTED_SHOWN]]
    if (more := len(index.rejected) - MAX_REJECTED_SHOWN) > 0:
        lines.append(f"  ... and {more} more in index.json")
    if index.cut:
        lines += ["", f"{len(index.cut)} files end before their header says; what there is is used:"]
        lines += [f"  {path}: {what}" for path, what in index.cut[:MAX_REJECTED_SHOWN]]
    if index.missing:
        lines += ["", f"{len(index.missing)} files are named in the lists but do not exist, such as {index.missing[0]}"]
    return "\n".join(lines).encode("utf-8", "replace").decode()  # a name may hold bytes that are no text


if __name__ == "__main__":
    main(STAGE, run, Experiment, SECTIONS)
