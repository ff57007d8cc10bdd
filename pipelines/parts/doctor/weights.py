"""Which files of pretrained weights a configuration can use, and whether those that are there are the known ones."""

from typing import Any

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.weights_used import weights_used
from pipelines.metrics.weight_files import checked_hash, find_weights, how_to_fetch


def weights_wanted(config: Experiment, trains_vae: bool) -> list[dict[str, Any]]:
    """For every use of weights {"name", "use", "needed", "present": the file, "wrong": what ails it, "command"}."""
    folder = config.weights.folder
    found = []
    for use in weights_used(config, trains_vae):
        path, wrong = find_weights(folder, use.name), ""
        try:
            if path is not None:
                checked_hash(path)
        except ValueError as error:
            wrong = f"{error}"
        found.append(
            {
                "name": use.name,
                "use": f"{use.use}; without it: {use.without}",
                "needed": use.stops_training,
                "present": str(path or ""),
                "wrong": wrong,
                "command": (f"rm {path} && " if wrong else "") + how_to_fetch(use.name, folder),
            }
        )
    return found
