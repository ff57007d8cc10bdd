"""Where the scores of a configuration stand, and what lies beside them."""

from pathlib import Path

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.samples import sample_folder
from pipelines.run.hashes import digest
from pipelines.run.stage import select


def score_name(config: Experiment) -> str:
    """Folder name of the scores: what is scored, and a digest of the options of `evaluate`."""
    options = config.evaluate
    if options.samples or options.vae:
        name = Path(options.samples or options.vae).resolve().name
    else:
        name = sample_folder(config).name
    return f"{name}-{digest(select(config, ('evaluate',))['evaluate'])[:6]}"


PREVIEW = "samples.webp"
