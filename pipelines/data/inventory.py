"""What a data set consists of before any file has been opened."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UCF_NAME = re.compile(r"v_(?P<name>.+)_g(?P<group>\d+)_c(?P<clip>\d+)")
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
SPLIT_FOLDERS |= {"validation": "validation", "dev": "validation", "eval": "validation"}
SPLIT_FOLDERS |= {"test": "validation", "testing": "validation"}
TEST_FOLDERS = {"test", "testing"}  # for validation where nothing else is


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


def group_of(path: str) -> str:
    """Files with one UCF-101 group are cuts of one video: "Class_g07"; any other file is a group of its own."""
    match = UCF_NAME.fullmatch(PurePosixPath(path).stem)
    return f"{match['name']}_g{match['group']}" if match else path


def text_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything, without blanks around them. ValueError unless it is in UTF-8."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; save it as such") from error
