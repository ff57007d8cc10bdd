"""One training step of a video autoencoder, as the task that the training loop drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vae.adaptation import AdaptationConfig, set_phase
from vae.discriminator import FrameDiscriminator
from vae.interface import VideoAutoencoder
from vae.losses import generator_loss, hinge_discriminator_loss, lecam_loss, psnr
from vae.objective import Draws, GanConfig, LossConfig, reconstruction_objective
from vae.perceptual import PerceptualLoss

LECAM_DECAY = 0.999


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
    ) -> None:
        """`batches(first_step)` yields training batches, `validation()` the same fixed batches every time."""
        self.losses, self.gan, self.adaptation = losses, gan, adaptation
        self.batches, self.validation, self.preview = batches, validation, preview
        self.players: dict[str, nn.Module] = {"vae": model}
        if gan.weight:
            self.players["discriminator"] = FrameDiscriminator(asdict(gan.discriminator))
        self.perceptual = PerceptualLoss(losses.weights_dir) if losses.perceptual else None
        self.lecam_averages = {"real": torch.zeros(()), "fake": torch.zeros(())}
        self.fakes: dict[tuple[int, ...], torch.Tensor] = {}

    def prepare_step(self, step: int) -> list[str]:
        """Freeze and unfreeze for the phase of this step; the discriminator plays from its start step on."""
        set_phase(self.players["vae"], self.adaptation, step)
        return ["vae", "discriminator"] if self._has_adversary(step) else ["vae"]

    def parameter_groups(self, player: str) -> list[dict[str, Any]]:
        """The motion module at its own rate, and the discriminator at its."""
        module = self.players[player]
        if player == "discriminator":
            return [{"params": list(module.parameters()), "lr_scale": self.gan.discriminator_lr_scale}]
        motion = [parameter for part in module.motion_modules() for parameter in part.parameters()]
        ids = {id(parameter) for parameter in motion}
        groups = [{"params": [p for p in module.parameters() if id(p) not in ids], "lr_scale": 1.0}]
        return groups + ([{"params": motion, "lr_scale": self.adaptation.motion_lr_scale}] if motion else [])

    def loss(self, player: str, batch: dict, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 9 for the autoencoder, hinge and LeCam for the discriminator."""
        video = batch["video"].to(next(self.players["vae"].parameters()).device)
        if player == "discriminator":
            return self._discriminator_loss(video, self.fakes.pop(tuple(batch["index"])))
        model = self.players["vae"]
        coded = model(video, sample=True, generator=draws("posterior"))
        if self.perceptual is not None:
            self.perceptual.to(video.device)
        loss, terms = reconstruction_objective(coded, video, self.losses, self.perceptual, draws)
        if self._has_adversary(step):
            discriminator = self.players["discriminator"].requires_grad_(False)
            terms["adversarial"] = generator_loss(discriminator(coded.reconstruction))
            loss = loss + self.gan.weight * terms["adversarial"]
            discriminator.requires_grad_(True)
            self.fakes[tuple(batch["index"])] = coded.reconstruction.detach()  # its turn comes next
        return loss, terms

    def _discriminator_loss(
        self, real: torch.Tensor, fake: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        real_logits, fake_logits = (self.players["discriminator"](video) for video in (real, fake))
        loss = hinge_discriminator_loss(real_logits, fake_logits)
        terms = {"discriminator": loss.detach(), "real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}
        if self.gan.lecam:
            averages = {name: average.to(real.device) for name, average in self.lecam_averages.items()}
            loss = loss + self.gan.lecam * lecam_loss(real_logits, fake_logits, averages["real"], averages["fake"])
            for name, logits in (("real", real_logits), ("fake", fake_logits)):
                self.lecam_averages[name] = averages[name].lerp(logits.detach().float().mean(), 1 - LECAM_DECAY)
        return loss, terms

    def _has_adversary(self, step: int) -> bool:
        return "discriminator" in self.players and step >= self.gan.start_step

    @torch.no_grad()
    def validate(self, model: VideoAutoencoder, step: int) -> dict[str, float]:
        """Mean over the validation clips of the PSNR of the reconstruction and of every component, in dB."""
        sums: dict[str, float] = {}
        count = 0
        for batch in self.validation():
            video = batch["video"].to(next(model.parameters()).device)
            coded = model(video, sample=False)
            scores = {"psnr": psnr(coded.reconstruction, video)}
            scores |= {
                f"psnr_{name}": psnr(pair.decoded, pair.target)
                for name, pair in coded.components.items()
                if name != "video"
            }
            for name, values in scores.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            count += len(video)
        return {name: value / count for name, value in sums.items()}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """The moving averages of LeCam."""
        return {f"lecam_{name}": average for name, average in self.lecam_averages.items()}

    def load_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `extra_state` gave."""
        self.lecam_averages = {name: state[f"lecam_{name}"] for name in self.lecam_averages}
