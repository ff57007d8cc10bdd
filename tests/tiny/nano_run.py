"""nano.yaml: every stage once, as small as it gets."""

from pathlib import Path

from pipelines.inputs.experiment import Experiment
from pipelines.run.config import load_config

NANO = Path(__file__).with_name("nano.yaml")


def nano(*arguments: str) -> Experiment:
    """Its configuration, with key=value arguments on top."""
    return load_config(Experiment, [str(NANO), *arguments], NANO)
