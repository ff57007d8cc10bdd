"""Where the scores of a configuration stand, and what lies there."""

from dataclasses import fields, replace
from pathlib import Path

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.samples import sample_folder
from pipelines.run.config import to_dict
from pipelines.run.hashes import digest

SCORES_FILE, PREVIEW_FILE = "scores.json", "samples.webp"
# Options of `evaluate` that change how fast scores are made, not which ones.
NOT_IN_NAME = ("i3d_batch_size",)


def scores_folder(config: Experiment) -> Path:
    """The folder of the scores of exactly this configuration: named after what is scored, and a digest of the options.

    ValueError where this run's own samples are to be scored and are not there.
    """
    options = config.evaluate
    scored = options.samples or options.vae
    name = Path(scored).resolve().name if scored else sample_folder(config).name
    defaults = {field.name: field.default for field in fields(options) if field.name in NOT_IN_NAME}
    return run_path(config) / "evaluate" / f"{name}-{digest(to_dict(replace(options, **defaults)))[:6]}"
