"""The adversarial part of training an autoencoder: the discriminator, both sides' losses, the weight of the term."""

from __future__ import annotations

import torch
from torch import distributed

from vae.discriminator import build_discriminator
from vae.losses import adaptive_weight, generator_loss, hinge_discriminator_loss, lecam_loss
from vae.objective import GanConfig

LECAM_DECAY = 0.999
Terms = dict[str, torch.Tensor]


class Adversary:
    """A discriminator that plays from `gan.start_step` on: before that, nothing here is computed.

    In a step the autoencoder moves first, micro-batch by micro-batch, then the discriminator on the same clips.
    """

    def __init__(self, config: GanConfig) -> None:
        self.config = config
        self.discriminator = build_discriminator(config.discriminator)
        self.averages = {"real": torch.zeros(()), "fake": torch.zeros(())}  # of LeCam
        self._observed: list[
            torch.Tensor
        ] = []  # (sum of real, of fake mean logits, clips) of this step's micro-batches
        self.fakes: dict[tuple[int, ...], torch.Tensor] = {}

    def plays(self, step: int) -> bool:
        """Whether there is an adversarial loss in this step."""
        return step >= self.config.start_step

    def autoencoder_loss(
        self, reconstruction: torch.Tensor, pixel_loss: torch.Tensor, index: list[int]
    ) -> tuple[torch.Tensor, Terms]:
        """The weighted adversarial term of the autoencoder, and what to log: the term itself, an adaptive weight.

        reconstruction: (b, 3, t, h, w) in [-1, 1]; pixel_loss: the other losses on it, weighted; index: its clips.
        """
        self.discriminator.requires_grad_(False)
        term = generator_loss(self.discriminator(reconstruction))
        self.discriminator.requires_grad_(True)
        self.fakes[tuple(index)] = reconstruction.detach()  # the discriminator's turn comes next
        if self.config.weighting == "constant":
            return self.config.weight * term, {"adversarial": term}
        weight = self.config.weight * adaptive_weight(pixel_loss, term, reconstruction)
        return weight * term, {"adversarial": term, "adversarial_weight": weight}

    def discriminator_loss(self, real: torch.Tensor, index: list[int]) -> tuple[torch.Tensor, Terms]:
        """Hinge and LeCam on clips whose reconstructions `autoencoder_loss` saw. real: (b, 3, t, h, w) in [-1, 1]."""
        fake = self.fakes.pop(tuple(index))
        real_logits, fake_logits = (self.discriminator(video).float() for video in (real, fake))
        loss = hinge_discriminator_loss(real_logits, fake_logits)
        terms = {"discriminator": loss.detach(), "real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}
        if self.config.lecam:
            averages = {name: average.to(real.device) for name, average in self.averages.items()}
            terms["lecam"] = lecam_loss(real_logits, fake_logits, averages["real"], averages["fake"])
            loss = loss + self.config.lecam * terms["lecam"]
            means = torch.stack([terms["real_logits"].detach(), terms["fake_logits"].detach(), loss.new_ones(())])
            self._observed.append(len(real) * means)
            if not self.fakes:
                self._end_step(averages)
        return loss, terms

    def _end_step(self, averages: dict[str, torch.Tensor]) -> None:
        """Move LeCam's averages by the whole step, whatever its micro-batches and processes are."""
        total = torch.stack(self._observed).sum(dim=0)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
        self._observed = []
        real, fake, num_clips = total.unbind()
        for name, logits in (("real", real), ("fake", fake)):
            self.averages[name] = averages[name].lerp(logits / num_clips, 1 - LECAM_DECAY)

    def state(self) -> Terms:
        """What a resume needs besides the discriminator's weights."""
        return {f"lecam_{name}": average for name, average in self.averages.items()}

    def load_state(self, state: Terms) -> None:
        """Take back what `state` gave."""
        self.averages = {name: state[f"lecam_{name}"] for name in self.averages}
