"""Where a run stands on the disk."""

from pathlib import Path

from pipelines.inputs.experiment import Experiment


def run_path(config: Experiment) -> Path:
    """The folder of the run that `config` names."""
    return Path(config.run.root) / config.run.name
