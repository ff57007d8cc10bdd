"""A data set that one CSV names: path,label[,split] per line, a header line allowed, paths from the CSV's folder."""

import csv
import posixpath
from collections.abc import Sequence
from pathlib import Path

from pipelines.data.inventory import SPLIT_FOLDERS, Inventory, VideoFile, group_of, text_lines

COLUMNS = ("path", "label", "split")
# What a first line that names columns is made of; a header that names others than COLUMNS is refused, not read as data.
HEADER_WORDS = {*COLUMNS, "file", "filename", "file_name", "file_path", "video", "video_path", "clip", "name", "id"}
HEADER_WORDS |= {"class", "class_name", "category", "caption", "text", "prompt", "action", "target", "start", "end"}
SUFFIXES = {".csv", ".txt", ".tsv"}
# A caption is a sentence of its own; classes are names that several files share.
CAPTION_WORDS, FEWEST_CAPTIONS = 3, 8


def read_csv(path: Path) -> Inventory:
    """The files that the CSV names. ValueError for any line that is not sure to mean what it seems to."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"data.root {path} is a file, but no CSV of path,label: give a folder of videos or a .csv")
    lines = text_lines(path)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    files: dict[str, VideoFile] = {}
    missing = []
    for number, row in enumerate(rows, start=1):
        if number == 1 and is_header(row):
            continue
        cells = [*row, "", ""]
        video, label, split = posixpath.normpath(cells[0].replace("\\", "/")), cells[1], cells[2].lower()
        if split and split not in SPLIT_FOLDERS:
            raise ValueError(f"{path} line {number}: got split {split!r}, expected train, validation or nothing")
        if video in files:
            raise ValueError(f"{path} line {number}: {video} stands there twice; remove one line")
        files[video] = VideoFile(video, label, SPLIT_FOLDERS.get(split, ""), group_of(video))
        if not (path.parent / video).exists():
            missing.append(video)
    if not files:
        raise ValueError(f"{path} names no file; expected lines path,label[,split]")
    if len(missing) == len(files):
        raise ValueError(
            f"none of {len(files)} files of {path} exists, such as {missing[0]} (looked for in {path.parent}): "
            f"{advice(lines)}"
        )
    check_labels(path, [file.class_name for file in files.values()])
    classes = {file.class_name for file in files.values()} - {""}
    found = tuple(file for file in files.values() if file.path not in set(missing))
    return Inventory(path.parent, tuple(sorted(classes, key=_natural)), found, (), tuple(missing))


def is_header(row: Sequence[str]) -> bool:
    """Whether the first line names columns. ValueError where it names others than path,label[,split]."""
    names = [cell.lower() for cell in row]
    if not set(names) <= HEADER_WORDS:
        return False
    if tuple(names) != COLUMNS[: len(names)]:
        raise ValueError(f"the CSV's first line names the columns {', '.join(row)}: expected path,label[,split]")
    return True


def advice(lines: Sequence[str]) -> str:
    """What may be wrong with lines of which no file is found."""
    marks = {";": "semicolons", "\t": "tabs", " ": "blanks"}
    if not any("," in line for line in lines):
        for mark, name in marks.items():
            if all(mark in line for line in lines):
                return f"columns are parted by commas, not by {name}"
    return "paths are relative to the folder of the CSV, or absolute"


def check_labels(path: Path, labels: Sequence[str]) -> None:
    """ValueError unless all have a label or none, and for captions in their place."""
    if "" in labels and any(labels):
        raise ValueError(f"{path} gives some files a label and others none; give all of them one, or none")
    sentences = {label for label in labels if len(label.split()) >= CAPTION_WORDS}
    if len(sentences) >= FEWEST_CAPTIONS and len(sentences) > len(labels) / 2:
        raise ValueError(
            f"{path} gives {len(labels)} files {len(set(labels))} labels, such as {max(sentences, key=len)!r}: those "
            "are captions, no classes; leave the label empty, or give names that files share"
        )


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (-1, name)
