"""Where reconstructions stand: a folder per set of options and weights, so that no result overwrites another."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.weights_used import weights_found
from pipelines.run.hashes import hash_folder
from pipelines.run.stage import select

STAGE = "reconstruct"
SCORE_OPTIONS = ("lpips_network", "i3d_precision")  # of the section evaluate
LONGEST_NAME = 60  # characters
LONGEST_PART = 200  # bytes of a file's name; file systems take 255, and something is put around it


def results_folder(
    config: Experiment, names: Sequence[str], options: Sequence[str], models: Mapping[str, Path], **settings: object
) -> tuple[str, dict[str, Any], dict[str, dict[str, str]]]:
    """For StageFolder: folder below the run, settings and inputs of results that depend on these options.

    names: files or words that people look for, the first words of the folder; behind them a digest covers the options
    of the section reconstruct, the weights of `models` {what it is: its folder}, further settings and the run's seed.
    """
    sections = select(config, ("reconstruct", "evaluate", "data"))
    chosen: dict[str, Any] = {"reconstruct": {name: sections["reconstruct"][name] for name in options}}
    chosen["evaluate"] = {name: sections["evaluate"][name] for name in SCORE_OPTIONS}
    chosen["weights"] = weights_found(config)
    chosen["run"] = {"seed": config.run.seed}
    if not config.reconstruct.input:
        chosen["data"] = {name: sections["data"][name] for name in ("root", "splits", "split_number")}
    chosen |= settings
    inputs = {name: {"path": str(path), "hash": hash_folder(path)} for name, path in models.items()}
    hashes = [entry["hash"] for entry in inputs.values()]
    digest = hashlib.sha256(json.dumps([chosen, hashes], sort_keys=True).encode()).hexdigest()[:8]
    words = (re.sub(r"[^\w.-]+", "_", Path(name).name).strip("._-") for name in names)
    name = "-".join(filter(None, words))[:LONGEST_NAME]
    return f"{STAGE}/{name or 'videos'}-{digest}", chosen, inputs


def file_folder(results: Path, name: str) -> Path:
    """Where the results of the video called `name` stand; names near the file system's limit are cut."""
    parts = []
    for part in Path(name).parts:
        is_long = len(os.fsencode(part)) > LONGEST_PART
        digest = hashlib.sha256(os.fsencode(part)).hexdigest()[:8]
        parts.append(f"{part[:LONGEST_NAME]}-{digest}" if is_long else part)
    return results.joinpath("files", *parts)


def check_cache(config: Experiment) -> Path:
    """The file that remembers which files were checked, and how; one for all calls of the run."""
    folder = run_path(config) / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "checked_files.jsonl"


def printable(text: str) -> str:
    """The text without bytes that are no characters: a file's name may hold some."""
    return text.encode("utf-8", "replace").decode()
