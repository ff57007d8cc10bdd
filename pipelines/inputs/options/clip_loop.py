"""Options of a training loop that reads clips: those of train_motion and train_vae."""

from dataclasses import dataclass

from pipelines.run.task import LoopConfig, require_least


@dataclass(frozen=True)
class ClipLoopConfig(LoopConfig):
    """A training loop on clips; `clips.training_batches` reads them."""

    num_workers: int = 0  # processes that read clips ahead; 0 = none

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, {"num_workers": 0})
        if self.optimizer == "muon":
            raise ValueError("optimizer is 'muon', which only train_latte has: choose adamw or adam")
