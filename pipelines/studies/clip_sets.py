"""Three sets of real clips, configs/studies/ablation_files.csv, and the two of them that a study trains and scores on.

learn: for training. judge: what the search for the default model was judged on. test: what no search was judged on.
Whole files, and whole sources: two cuts of one video, or two clips of one person, never lie in two sets.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.study import StudySection

FILES = "configs/studies/ablation_files.csv"
SETS = {"trained_on": "learn", "scored_on": "test"}
TINY_FILES = 2  # of each top folder and set


def read_sets() -> dict[str, list[str]]:
    """{set: its files}, as configs/studies/ablation_files.csv has them."""
    sets: dict[str, list[str]] = {}
    with (REPOSITORY / FILES).open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            sets.setdefault(line["set"], []).append(line["path"])
    return sets


def link_clips(options: StudySection, folder: Path) -> None:
    """Write `folder`/clips.csv, `learn` for training and `test` for scores, beside links to the folders of the clips.

    Raises ValueError where files are missing.
    """
    clips, sets = Path(options.clips).resolve(), read_sets()
    chosen = {side: sets[name] for side, name in (("train", SETS["trained_on"]), ("validation", SETS["scored_on"]))}
    if options.tiny:
        chosen = {side: _few(files) for side, files in chosen.items()}
    missing = [name for files in chosen.values() for name in files if not (clips / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} files of {FILES} are not in {clips}, such as {missing[0]}: set study.clips to a folder "
            "that holds them (docs/results/README.md)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for top in {Path(name).parts[0] for files in chosen.values() for name in files}:
        link = folder / top
        if not link.is_symlink() or link.resolve() != clips / top:
            link.unlink(missing_ok=True)
            link.symlink_to(clips / top, target_is_directory=True)
    lines = [f"{name},,{side}" for side, files in chosen.items() for name in files]
    (folder / "clips.csv").write_text("\n".join(["path,label,split", *lines]) + "\n", encoding="utf-8")


def _few(files: Sequence[str]) -> list[str]:
    by_folder: dict[str, list[str]] = {}
    for name in files:
        by_folder.setdefault(Path(name).parts[0], []).append(name)
    return [name for found in by_folder.values() for name in found[:TINY_FILES]]
