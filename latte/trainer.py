"""Training of Latte on cached latents, as the task that the training loop drives."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from latte.diffusion import Draws, draw_noise, loss_at, training_loss
from latte.latte import Latte

GOLDEN_RATIO = 0.6180339887498949


class LatteTask:
    """One model, one objective; the stage injects data and pictures.

    The stage's batches are {"latents": {part: (b, c, t, h, w)} whitened, "label": (b,) int64 with -1 = none, "index":
    [global indices], "path": [names for error messages]}.
    """

    stage = "train_latte"
    ema_player = "latte"
    best_metric = ("loss", "min")

    def __init__(
        self,
        model: Latte,
        batches: Callable[[int], Iterator[dict]],
        validation: Callable[[], Iterable[dict]],
        preview: Callable[[Latte, Path, int], None],
    ) -> None:
        """`batches(first_step)` yields training batches, `validation()` the same fixed batches every time."""
        self.model = model
        self.players: dict[str, nn.Module] = {"latte": model}
        self.training_batches = batches
        self.validation = validation
        self.preview = preview

    def prepare_step(self, step: int) -> list[str]:
        """The one player is trained in every step."""
        return ["latte"]

    def parameter_groups(self, player: str) -> list[dict]:
        """The matrices of the blocks but those of adaLN, and all else, at the same rate."""
        hidden = [
            parameter
            for name, parameter in self.model.blocks.named_parameters()
            if parameter.ndim == 2 and "modulation" not in name
        ]
        known = {id(parameter) for parameter in hidden}
        others = [parameter for parameter in self.players[player].parameters() if id(parameter) not in known]
        return [{"params": hidden, "lr_scale": 1.0, "hidden": True}, {"params": others, "lr_scale": 1.0}]

    def batches(self, first_step: int) -> Iterator[dict]:
        """The stage's batches with one entry per part, which the loop can cut into micro-batches like any other."""
        for batch in self.training_batches(first_step):
            others = {name: value for name, value in batch.items() if name != "latents"}
            yield {**{f"latents/{part}": latent for part, latent in batch["latents"].items()}, **others}

    def loss(self, player: str, batch: dict, draws: Draws, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective on (a part of) one of `batches`, and the loss of each latent part."""
        latents = {part: batch[f"latents/{part}"] for part in self.model.layout.parts}
        return training_loss(self.model, latents, batch["label"], draws)

    @torch.no_grad()
    def validate(self, model: Latte, step: int) -> dict[str, float]:
        """Mean loss over the validation batches at fixed times and noise, with labels; {} without validation data.

        The n-th clip gets the n-th time of an even spread over (0, 1) and noise of its own, always the same ones, so
        that two steps differ by the model alone.
        """
        sums: dict[str, float] = {}
        num_clips = 0
        for batch in self.validation():
            latents = {part: latent.to(model.device) for part, latent in batch["latents"].items()}
            labels = batch["label"].to(model.device)
            clips = range(num_clips, num_clips + len(labels))
            times = torch.tensor([(0.5 + clip * GOLDEN_RATIO) % 1 for clip in clips], device=labels.device)
            noise = draw_noise(model, [torch.Generator().manual_seed(clip) for clip in clips], labels.device)
            labels = torch.where(labels < 0, model.num_classes, labels)
            loss, terms = loss_at(model, latents, labels, times, noise)
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(labels)
            num_clips += len(labels)
        return {name: value / num_clips for name, value in sums.items()}

    def extra_state(self) -> dict[str, Tensor]:
        """Nothing beyond the model and its optimiser."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""
