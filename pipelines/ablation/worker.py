"""One run of an ablation: python -m pipelines.ablation.worker motion|row|timing runs/NAME/RUN/experiment.yaml

Started by `ablate` as a child process; ends when its standard input is closed, i.e. when `ablate` was killed.
"""

import os
import sys
import threading
from collections.abc import Callable

from pipelines import train_motion, train_vae
from pipelines.ablation.scores import score_run
from pipelines.ablation.timing import measure
from pipelines.experiment import Experiment
from pipelines.run.stage import main


def train_and_score(config: Experiment) -> None:
    """train_vae, then the scores of its averaged weights; each part returns at once when it is done already."""
    train_vae.run(config)
    score_run(config)


WORK: dict[str, tuple[str, Callable[[Experiment], None]]] = {
    "motion": (train_motion.STAGE, train_motion.run),
    "row": (train_vae.STAGE, train_and_score),
    "timing": ("ablate", measure),
}


def end_with_parent() -> None:
    """Ends this process, from a thread, as soon as the other end of its standard input is closed."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    stage, work = WORK[sys.argv[1]]
    main(stage, work, Experiment, ("data", "motion", "vae", "run"), arguments=sys.argv[2:])
