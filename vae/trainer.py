"""One training step of a video autoencoder, as the task that the training loop drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vae.adaptation import AdaptationConfig, set_phase
from vae.adversary import Adversary
from vae.interface import VideoAutoencoder
from vae.losses import psnr
from vae.objective import Draws, GanConfig, LossConfig, pixel_loss, reconstruction_objective


class VaeTask:
    """Two-phase decoupled adaptation (3.3) of an autoencoder, with a discriminator from `gan.start_step`.

    A batch is {"video": (b, 3, t, h, w) in [-1, 1], "index": [global indices], "path": [names for error messages]}.
    """

    stage = "train_vae"
    ema_player = "vae"
    best_metric = ("psnr", "max")

    def __init__(
        self,
        model: VideoAutoencoder,
        losses: LossConfig,
        gan: GanConfig,
        adaptation: AdaptationConfig,
        batches: Callable[[int], Iterator[dict]],
        validation: Callable[[], Iterable[dict]],
        preview: Callable[[VideoAutoencoder, Path, int], None],
        perceptual: nn.Module | None = None,
    ) -> None:
        """`batches(first_step)` yields training batches, `validation()` the same fixed batches every time.

        perceptual: LPIPS, frozen; it must be there where losses.perceptual is not 0.
        """
        assert (perceptual is not None) == bool(losses.perceptual), "LPIPS is there if and only if it has a weight"
        self.losses, self.gan, self.adaptation = losses, gan, adaptation
        self.batches, self.validation, self.preview = batches, validation, preview
        model.components_are_trained = bool(losses.wavelet_low or losses.wavelet_high)
        self.players: dict[str, nn.Module] = {"vae": model}
        self.adversary = Adversary(gan) if gan.weight else None
        if self.adversary is not None:
            self.players["discriminator"] = self.adversary.discriminator
        self.perceptual = perceptual

    def prepare_step(self, step: int) -> list[str]:
        """Freeze and unfreeze for the phase of this step; the discriminator plays from its start step on."""
        set_phase(self.players["vae"], self.adaptation, step)
        plays = self.adversary is not None and self.adversary.plays(step)
        return ["vae", "discriminator"] if plays else ["vae"]

    def parameter_groups(self, player: str) -> list[dict[str, Any]]:
        """The motion module at its own rate, and the discriminator at its."""
        module = self.players[player]
        if player == "discriminator":
            return [{"params": list(module.parameters()), "lr_scale": self.gan.discriminator_lr_scale}]
        motion = [parameter for own in module.motion_modules() for parameter in own.parameters()]
        ids = {id(parameter) for parameter in motion}
        groups = [{"params": [p for p in module.parameters() if id(p) not in ids], "lr_scale": 1.0}]
        return groups + ([{"params": motion, "lr_scale": self.adaptation.motion_lr_scale}] if motion else [])

    def loss(self, player: str, batch: dict, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 9 for the autoencoder, hinge and LeCam for the discriminator."""
        video = batch["video"].to(next(self.players["vae"].parameters()).device)
        if player == "discriminator":
            return self.adversary.discriminator_loss(video, batch["index"])
        coded = self.players["vae"](video, sample=True, generator=draws("posterior"))
        if self.perceptual is not None:
            self.perceptual.to(video.device)
        loss, terms = reconstruction_objective(coded, video, self.losses, self.perceptual, draws)
        if self.adversary is not None and self.adversary.plays(step):
            reference = pixel_loss(terms, self.losses)
            weighted, more = self.adversary.autoencoder_loss(coded.reconstruction, reference, batch["index"])
            loss, terms = loss + weighted, terms | more
        return loss, terms

    @torch.no_grad()
    def validate(self, model: VideoAutoencoder, step: int) -> dict[str, float]:
        """Mean over the validation clips of the PSNR of the reconstruction and of every component, in dB."""
        sums: dict[str, float] = {}
        count = 0
        for batch in self.validation():
            video = batch["video"].to(next(model.parameters()).device)
            coded = model(video, sample=False)
            scores = {"psnr": psnr(coded.reconstruction.clamp(-1, 1), video)}
            for name, pair in coded.components.items():
                if name != "video":
                    is_shown = model.picture_rows.get(name) == "pixels"  # others have no range to be cut to
                    decoded = pair.decoded.clamp(-1, 1) if is_shown else pair.decoded
                    scores[f"psnr_{name}"] = psnr(decoded, pair.target)
            for name, values in scores.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            count += len(video)
        return {name: value / count for name, value in sums.items()}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """What the adversary carries from step to step besides its weights."""
        return self.adversary.state() if self.adversary is not None else {}

    def load_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `extra_state` gave."""
        if self.adversary is not None:
            self.adversary.load_state(state)
