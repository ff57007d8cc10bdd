"""Which files a data set consists of, and what their names, folders and lists say about class, split and group."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from pipelines.data.data_config import DataConfig

UCF_NAME = re.compile(r"v_(?P<name>.+)_g(?P<group>\d+)_c(?P<clip>\d+)")
# Text and pictures stand beside videos in many data sets; everything else is tried and, if it fails, reported.
NOT_VIDEO = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".md", ".html", ".pdf", ".xml", ".srt", ".py"}
NOT_VIDEO |= {".jpg", ".jpeg", ".png", ".zip", ".rar", ".gz", ".tar", ".npy", ".npz", ".safetensors", ".part", ".sh"}
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
SPLIT_FOLDERS |= {"validation": "validation", "test": "validation", "testing": "validation"}


@dataclass(frozen=True)
class VideoFile:
    """A file before it has been opened."""

    path: str  # relative to the root, with /
    class_name: str = ""  # "" = no class
    split: str = ""  # "train", "validation", or "" = not yet assigned
    group: str = ""  # files of a group never stand on both sides of a split


@dataclass(frozen=True)
class Inventory:
    """What lies under a root."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[VideoFile, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()


def take_inventory(config: DataConfig) -> Inventory:
    """Finds the files of data.root: a CSV, split lists, class folders, or a folder without classes.

    Raises:
        ValueError: the root or the lists do not exist or contradict themselves.
    """
    root = Path(config.root)
    if not config.root or not root.exists():
        raise ValueError(f"data.root {config.root!r} does not exist; give a folder of videos or a CSV of path,label")
    if root.is_file():
        return _from_csv(root)
    paths = sorted(_walk(root))
    if not paths:
        raise ValueError(f"data.root {root} holds no file that could be a video; give a folder of videos or a CSV")
    lists = Path(config.splits) if config.splits else root
    if config.splits or (root / f"trainlist{config.split_number:02d}.txt").exists():
        return _from_lists(root, paths, lists, config.split_number)
    return _from_folders(root, paths)


def assign_splits(files: Sequence[VideoFile], fraction: float, seed: int) -> list[VideoFile]:
    """Gives every file without a split one: whole groups, class by class, in a seeded order of their names.

    Of n groups of a class round(fraction * n) are held out, at least one if there are two, never all of them. Where no
    class has two groups, the groups of all classes together are divided in this way.
    """
    groups: dict[str, set[str]] = {}
    for file in files:
        if not file.split:
            groups.setdefault(file.class_name, set()).add(file.group)
    if all(len(names) == 1 for names in groups.values()):
        groups = {"": set().union(*groups.values())} if groups else {}
    held_out = set()
    for names in groups.values():
        count = min(max(1, round(fraction * len(names))), len(names) - 1) if fraction else 0
        order = sorted(names, key=lambda name: blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())
        held_out |= set(order[:count])
    return [
        file if file.split else replace(file, split="validation" if file.group in held_out else "train")
        for file in files
    ]


def read_split_lists(folder: Path, number: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Reads classInd.txt (optional), trainlist0N.txt and testlist0N.txt, whatever their line ends.

    Returns:
        classes in the order of classInd.txt (else by name), {path: "train" or "validation"}.

    Raises:
        ValueError: a list is missing, names a file twice on different sides, or a class that classInd.txt lacks.
    """
    splits: dict[str, str] = {}
    for name, split in ((f"trainlist{number:02d}.txt", "train"), (f"testlist{number:02d}.txt", "validation")):
        if not (folder / name).exists():
            raise ValueError(f"{folder} holds no {name}; correct data.splits (the folder of the lists)")
        for line in _lines(folder / name):
            path = re.sub(r"\s+\d+$", "", line).replace("\\", "/")  # the train lists append the class number
            if splits.setdefault(path, split) != split:
                raise ValueError(f"{folder}: {path} stands in the train list and in the test list; remove it from one")
    named = {PurePosixPath(path).parts[0] for path in splits}
    if not (folder / "classInd.txt").exists():
        return tuple(sorted(named)), splits
    numbered = [line.split(maxsplit=1) for line in _lines(folder / "classInd.txt")]
    if any(len(pair) != 2 or not pair[0].isdigit() for pair in numbered):
        raise ValueError(f"{folder / 'classInd.txt'}: expected lines such as '1 ApplyEyeMakeup'")
    classes = tuple(name for _, name in sorted(numbered, key=lambda pair: int(pair[0])))
    if unknown := sorted(named - set(classes)):
        raise ValueError(f"{folder}: the lists name class {unknown[0]!r}, which classInd.txt lacks; add it there")
    return classes, splits


def group_of(path: str) -> str:
    """Files with one UCF-101 group are cuts of one video: "Class_g07"; any other file is a group of its own."""
    match = UCF_NAME.fullmatch(PurePosixPath(path).stem)
    return f"{match['name']}_g{match['group']}" if match else path


def _from_lists(root: Path, paths: list[str], lists: Path, number: int) -> Inventory:
    classes, splits = read_split_lists(lists, number)
    on_disk = set(paths)
    by_stem: dict[str, list[str]] = {}  # a re-encoded copy may have another suffix or folder
    for path in paths:
        by_stem.setdefault(PurePosixPath(path).stem, []).append(path)
    files, missing = {}, []
    for listed, split in splits.items():
        same_stem = by_stem.get(PurePosixPath(listed).stem, [])
        if listed not in on_disk and len(same_stem) != 1:
            missing.append(listed)
            continue
        found = listed if listed in on_disk else same_stem[0]
        files[found] = VideoFile(found, PurePosixPath(listed).parts[0], split, group_of(found))
    if not files:
        raise ValueError(f"the lists in {lists} name no file that lies in {root}; correct data.root or data.splits")
    reason = f"in neither trainlist{number:02d}.txt nor testlist{number:02d}.txt"
    rejected = tuple((path, reason) for path in paths if path not in files)
    return Inventory(root, classes, tuple(files[path] for path in sorted(files)), rejected, tuple(missing))


def _from_folders(root: Path, paths: list[str]) -> Inventory:
    parts = {path: PurePosixPath(path).parts for path in paths}
    in_folders = [path for path in paths if len(parts[path]) > 1]
    if not in_folders:  # a folder without classes
        return Inventory(root, (), tuple(VideoFile(path, group=group_of(path)) for path in paths))
    has_splits = all(parts[path][0].lower() in SPLIT_FOLDERS for path in in_folders)
    depth = 1 if has_splits else 0
    with_class = any(len(parts[path]) > depth + 1 for path in in_folders)
    files, rejected = [], []
    for path in paths:
        if len(parts[path]) == 1 or (with_class and len(parts[path]) <= depth + 1):
            rejected.append((path, "lies outside the class folders"))
            continue
        class_name = parts[path][depth] if with_class else ""
        split = SPLIT_FOLDERS[parts[path][0].lower()] if has_splits else ""
        files.append(VideoFile(path, class_name, split, group_of(path)))
    classes = tuple(sorted({file.class_name for file in files} - {""}))
    return Inventory(root, classes, tuple(files), tuple(rejected))


def _from_csv(path: Path) -> Inventory:
    """path,label[,split] per line, a header line allowed; paths are relative to the CSV's folder."""
    files: dict[str, VideoFile] = {}
    missing = []
    for number, row in enumerate(csv.reader(_lines(path)), start=1):
        cells = [cell.strip() for cell in row] + ["", ""]
        if number == 1 and cells[0].lower() == "path":
            continue
        video, label, split = cells[0].replace("\\", "/"), cells[1], cells[2].lower()
        if split and split not in SPLIT_FOLDERS:
            raise ValueError(f"{path} line {number}: got split {split!r}, expected train, validation or nothing")
        if video in files:
            raise ValueError(f"{path} line {number}: {video} stands there twice; remove one line")
        files[video] = VideoFile(video, label, SPLIT_FOLDERS.get(split, ""), group_of(video))
        if not (path.parent / video).exists():
            missing.append(video)
    if not files:
        raise ValueError(f"{path} names no file; expected lines path,label[,split]")
    classes = {file.class_name for file in files.values()}
    if "" in classes and len(classes) > 1:
        raise ValueError(f"{path} gives some files a label and others none; give all of them one, or none")
    found = tuple(file for file in files.values() if file.path not in set(missing))
    return Inventory(path.parent, tuple(sorted(classes - {""}, key=_natural)), found, (), tuple(missing))


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (-1, name)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; save it as such") from error


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of files that may be videos; links to folders are followed, once each."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        for name in [] if real in seen else names:
            if not name.startswith(".") and Path(name).suffix.lower() not in NOT_VIDEO:
                yield (Path(folder) / name).relative_to(root).as_posix()
        seen.add(real)
