"""Which files a data set consists of, and what their names, folders and lists say about class, split and group."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from pipelines.data.csv_list import read_csv
from pipelines.data.data_config import DataConfig
from pipelines.data.inventory import SPLIT_FOLDERS, TEST_FOLDERS, Inventory, VideoFile, group_of, text_lines

# Text and pictures stand beside videos in many data sets; everything else is tried and, if it fails, reported.
NOT_VIDEO = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".md", ".html", ".pdf", ".xml", ".srt", ".py"}
NOT_VIDEO |= {".jpg", ".jpeg", ".png", ".zip", ".rar", ".gz", ".tar", ".npy", ".npz", ".safetensors", ".part", ".sh"}


def take_inventory(config: DataConfig, without: Path | None = None) -> Inventory:
    """Finds the files of data.root: a CSV, split lists, class folders, or a folder without classes.

    without: a folder that is no data, wherever it lies: that of the runs.

    Raises:
        ValueError: the root or the lists do not exist or contradict themselves.
    """
    root = Path(config.root)
    if not config.root or not root.exists():
        raise ValueError(f"data.root {config.root!r} does not exist; give a folder of videos or a CSV of path,label")
    if root.is_file():
        return read_csv(root)
    walked = sorted(_walk(root, without))
    paths = [path for path in walked if _is_text(path)]
    if not paths:
        raise ValueError(f"data.root {root} holds no file that could be a video; give a folder of videos or a CSV")
    lists = Path(config.splits) if config.splits else root
    if config.splits or (root / f"trainlist{config.split_number:02d}.txt").exists():
        inventory = _from_lists(root, paths, lists, config.split_number)
    else:
        inventory = _from_folders(root, paths)
    unnamed = [os.fsencode(path).decode(errors="backslashreplace") for path in walked if not _is_text(path)]
    reason = "its name is no text in UTF-8; rename it"
    return replace(inventory, rejected=(*inventory.rejected, *((name, reason) for name in unnamed)))


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
        for line in text_lines(folder / name):
            # the train lists append the class number
            path = posixpath.normpath(re.sub(r"\s+\d+$", "", line).replace("\\", "/"))
            if splits.setdefault(path, split) != split:
                raise ValueError(f"{folder}: {path} stands in the train list and in the test list; remove it from one")
    named = {PurePosixPath(path).parts[0] for path in splits}
    if not (folder / "classInd.txt").exists():
        return tuple(sorted(named)), splits
    numbered = [line.split(maxsplit=1) for line in text_lines(folder / "classInd.txt")]
    if any(len(pair) != 2 or not pair[0].isdigit() for pair in numbered):
        raise ValueError(f"{folder / 'classInd.txt'}: expected lines such as '1 ApplyEyeMakeup'")
    classes = tuple(name for _, name in sorted(numbered, key=lambda pair: int(pair[0])))
    if unknown := sorted(named - set(classes)):
        raise ValueError(f"{folder}: the lists name class {unknown[0]!r}, which classInd.txt lacks; add it there")
    return classes, splits


def _from_lists(root: Path, paths: list[str], lists: Path, number: int) -> Inventory:
    classes, splits = read_split_lists(lists, number)
    found = find_listed(tuple(splits), paths, classes)
    missing = [listed for listed in splits if listed not in found]
    files = {
        path: VideoFile(path, PurePosixPath(listed).parts[0], splits[listed], group_of(path))
        for listed, path in found.items()
    }
    if not files:
        raise ValueError(f"the lists in {lists} name no file that lies in {root}; correct data.root or data.splits")
    reason = f"in neither trainlist{number:02d}.txt nor testlist{number:02d}.txt"
    rejected = tuple((path, reason) for path in paths if path not in files)
    return Inventory(root, classes, tuple(files[path] for path in sorted(files)), rejected, tuple(missing))


def find_listed(listed: Sequence[str], paths: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """{path in a list: file that it means}: the file itself or, of a re-encoded copy with another suffix or in another
    folder, the only one of that stem. Not one that lies in the folder of another class, or that a list names itself,
    or that two listed paths would claim."""
    on_disk, named = set(paths), set(listed)
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(PurePosixPath(path).stem, []).append(path)
    absent = [path for path in listed if path not in on_disk]
    claims: dict[str, list[str]] = {}
    for path in absent:
        others = set(classes) - {PurePosixPath(path).parts[0]}
        same_stem = by_stem.get(PurePosixPath(path).stem, [])
        free = [one for one in same_stem if one not in named and not others & set(PurePosixPath(one).parts[:-1])]
        if len(free) == 1:
            claims.setdefault(free[0], []).append(path)
    copies = {wanted[0]: path for path, wanted in claims.items() if len(wanted) == 1}
    return {path: path if path in on_disk else copies[path] for path in listed if path in on_disk or path in copies}


def _from_folders(root: Path, paths: list[str]) -> Inventory:
    parts = {path: PurePosixPath(path).parts for path in paths}
    in_folders = [path for path in paths if len(parts[path]) > 1]
    if not in_folders:  # a folder without classes
        return Inventory(root, (), tuple(VideoFile(path, group=group_of(path)) for path in paths))
    tops = {parts[path][0] for path in in_folders}
    splits = split_folders(root, [parts[path] for path in in_folders])
    depth = 1 if splits else 0
    with_class = any(len(parts[path]) > depth + 1 for path in in_folders if not splits or parts[path][0] in splits)
    left_out = "lies in a test folder, and there is one for validation" if splits else ""
    files, rejected = [], []
    for path in paths:
        top = parts[path][0]
        if splits and top in tops and top not in splits:
            is_test = top.lower() in TEST_FOLDERS
            rejected.append((path, left_out if is_test else f"lies outside the folders {', '.join(sorted(splits))}"))
        elif len(parts[path]) == 1 or (with_class and len(parts[path]) <= depth + 1):
            rejected.append((path, "lies outside the class folders"))
        else:
            class_name = parts[path][depth] if with_class else ""
            files.append(VideoFile(path, class_name, splits.get(top, ""), group_of(path)))
    classes = tuple(sorted({file.class_name for file in files} - {""}))
    return Inventory(root, classes, tuple(files), tuple(rejected))


def split_folders(root: Path, parts: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """{top folder: split} where the folders of a root are splits, {} where they are classes.

    parts: of the paths that lie in folders. Folders for training and for validation with class folders in them are
    splits, whatever lies beside them. ValueError where both readings are possible.
    """
    tops = {one[0]: max(len(other) for other in parts if other[0] == one[0]) for one in parts}
    named = {top: SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    others = sorted(set(tops) - set(named))
    if others and named:
        has_both, has_classes = set(named.values()) == {"train", "validation"}, min(tops[top] for top in named) > 2
        if not has_both and max(tops[top] for top in named) <= 2:
            return _one_level_higher(root, parts)  # a class that happens to be called so, beside others
        if not (has_both and has_classes):
            raise ValueError(
                f"data.root {root} holds folders that are named as splits, {', '.join(sorted(named))}, beside others, "
                f"such as {others[0]}: move the others away, or name the files in a CSV of path,label,split"
            )
    if not named:
        return _one_level_higher(root, parts)
    is_test = {top: top.lower() in TEST_FOLDERS for top in named}
    if any(split == "validation" and not is_test[top] for top, split in named.items()):
        named = {top: split for top, split in named.items() if not is_test[top]}
    return named


def _one_level_higher(root: Path, parts: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """{} for class folders. ValueError where these seem to lie one level deeper."""
    tops = {one[0] for one in parts}
    if len(tops) == 1 and len({one[1] for one in parts if len(one) > 2}) > 1:
        raise ValueError(
            f"data.root {root} holds one folder, {parts[0][0]}, with folders in it: set data.root to it where those "
            "are the classes, or name the files in a CSV of path,label"
        )
    inner = [{one[1] for one in parts if one[0] == top and len(one) > 2} for top in sorted(tops)]
    if len(tops) > 1 and all(len(names) > 1 for names in inner) and set.intersection(*inner):
        raise ValueError(
            f"data.root {root} holds the folders {', '.join(sorted(tops)[:3])}, and in each of them folders of the "
            "same names: which of them are classes? Name the files in a CSV of path,label"
        )
    return {}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file's name that are no UTF-8
        return False
    return True


def _walk(root: Path, without: Path | None) -> Iterator[str]:
    """Relative paths of files that may be videos; links to folders are followed, once each."""
    seen = {os.path.realpath(without)} if without else set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        for name in [] if real in seen else names:
            if not name.startswith(".") and Path(name).suffix.lower() not in NOT_VIDEO:
                yield (Path(folder) / name).relative_to(root).as_posix()
        seen.add(real)
