"""One run of an ablation, in a child process of `ablate`: ordinary stages, with their output in the run's log.txt."""

import os
from collections.abc import Callable

from pipelines import train_motion, train_vae
from pipelines.run.interruption import end_with_parent
from pipelines.run.stage import main
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.ablation.scores import score_run
from pipelines.studies.ablation.timing import measure


def train_and_score(config: AblationStudy) -> None:
    """train_vae, then the scores of its averaged weights; each part returns at once when it is done already."""
    train_vae.run(config)
    score_run(config)


WORK: dict[str, tuple[str, Callable[[AblationStudy], None]]] = {
    "motion": (train_motion.STAGE, train_motion.run),
    "row": (train_vae.STAGE, train_and_score),
    "timing": ("ablate", measure),
}


def work(kind: str, experiment: str, log: str) -> None:
    """Do one job and exit as its stage does: 0, 2 with one sentence in the log, 130 / 143 when interrupted.

    kind: motion, row or timing. experiment: the YAML of the run. Ends at once when the parent is killed.
    """
    os.setsid()  # Ctrl-C reaches the parent alone, which then ends this process in its own way
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    end_with_parent()
    stage, run = WORK[kind]
    main(stage, run, AblationStudy, ("data", "motion", "vae", "run"), arguments=[experiment])
