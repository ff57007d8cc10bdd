"""Finds, checks and splits the video files; makes the embedded moving shapes first where data.root is empty.

python pipelines/prepare_data.py [CONFIG.yaml ...] [data.root=FOLDER] [key=value ...]
"""

from dataclasses import replace
from pathlib import Path

from pipelines.data.clip_index import ClipIndex, build_index
from pipelines.data.synthetic import write_moving_shapes
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import NOT_IN_INDEX, refuse_flipped_shapes
from pipelines.run.folder import StageFolder
from pipelines.run.stage import main, select

STAGE = "prepare_data"
SECTIONS = ("data", "run")
MAX_REJECTED_SHOWN = 20


def run(config: Experiment) -> None:
    """Writes runs/<run>/prepare_data/index.json; a second call checks only the files that are new or have changed.

    Raises:
        ValueError: data.root or data.splits are wrong, no file can be used, or the run has other data already.
    """
    refuse_flipped_shapes(config)
    settings, defaults = select(config, ("data",)) | {"run": {"seed": config.run.seed}}, select(Experiment(), ("data",))
    folder = StageFolder(config.run.root, config.run.name, STAGE)
    # Data that moved to another place may go on being used; that it is the same is checked below.
    with folder.open(settings, may_change=(*NOT_IN_INDEX, "data.root", "data.splits"), defaults=defaults):
        if not folder.is_main:
            return
        index_file, data = folder.path / "index.json", config.data
        runs = Path(config.run.root) if data.root else None  # they hold the embedded data set
        if not data.root:
            data = replace(data, root=str(folder.path / "moving_shapes"), flip=False)
            write_moving_shapes(folder.path / "moving_shapes", data.shapes)
        index = build_index(data, config.run.seed, folder.path / "checked_files.jsonl", without=runs)
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
