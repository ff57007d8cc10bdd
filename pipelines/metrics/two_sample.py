"""Two-sample accuracy: how well a small network tells generated videos from real ones that it has not seen.

A classifier two-sample test (Lopez-Paz and Oquab 2017): 0.5 when nothing gives them away, 1 when everything does. The
network looks at full-size patches, where seams and mush show, and at how they change.
"""

from collections.abc import Iterator
from statistics import fmean

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pipelines.metrics.declared import IF_MEASURED, ITS_RECORD, LOWER, Metric, declare
from pipelines.metrics.random_state import seeded

PATCH, FRAME_STEP, BATCH, PEAK_LR = 32, 2, 64, 3e-3
FOLDS = 2  # every video is judged by a network that has not seen it

declare(
    Metric(
        "two_sample_accuracy",
        "How often a small network tells a generated video from a real one that went through the autoencoder: 0.5 when "
        "it cannot, 1 when always. Read it beside that of two sets of real clips.",
        LOWER,
        ITS_RECORD,
        summary=IF_MEASURED,
    )
)
declare(
    Metric(
        "two_sample_accuracy_real",
        "The same of two sets of real clips, which no samples can be under.",
        LOWER,
        ITS_RECORD,
        is_detail=True,
        summary=IF_MEASURED,
    )
)


class PatchDiscriminator(nn.Module):
    """Convolutions over frames of a patch and their differences, no batch statistics; one logit per patch."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()

        def unit(inside: int, outside: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Module:
            padding = tuple(size // 2 for size in kernel)
            convolution = nn.Conv3d(inside, outside, kernel, stride, padding)
            return nn.Sequential(convolution, nn.GroupNorm(4, outside), nn.SiLU(inplace=True))

        self.trunk = nn.Sequential(
            unit(6, width, (1, 4, 4), (1, 2, 2)),
            unit(width, 2 * width, (3, 3, 3), (1, 2, 2)),
            unit(2 * width, 4 * width, (3, 3, 3), (2, 2, 2)),
        )
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(8 * width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (n, 3, t, 32, 32) in [-1, 1] -> (n,) logits: positive for generated."""
        differences = torch.diff(patches, dim=2, prepend=patches[:, :, :1])
        x = self.trunk(torch.cat([patches, 3 * differences], dim=1))
        x = torch.cat([x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))], dim=1)  # what is everywhere, and what is anywhere
        return rearrange(self.head(self.dropout(x)), "n 1 -> n")


def two_sample_accuracy(
    generated: Tensor, real: Tensor, seed: int, steps: int, device: torch.device | str = "cpu"
) -> float:
    """Accuracy on videos that the network has not seen, over FOLDS folds; the global random state stays.

    generated, real: (n, t, h, w, 3) uint8, equally many and at least 4, of one shape, 32 x 32 or larger.
    """
    return fmean(accuracy_in_fold(generated, real, seed, fold, steps, device) for fold in range(FOLDS))


def accuracy_in_fold(
    generated: Tensor, real: Tensor, seed: int, fold: int, steps: int, device: torch.device | str = "cpu"
) -> float:
    """The part of `two_sample_accuracy` that one network says: on every `FOLDS`th video of a shuffled order."""
    if generated.shape != real.shape or len(real) < 2 * FOLDS:
        raise ValueError(
            f"two-sample accuracy compares equally many clips of one shape, at least {2 * FOLDS} of each, got "
            f"{tuple(generated.shape)} and {tuple(real.shape)}"
        )
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    tested = order[fold::FOLDS]
    learned = torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
    network = fit(generated[learned], real[learned], seed * FOLDS + fold, steps, device)
    fake_logits, real_logits = (judge(network, clips[tested]) for clips in (generated, real))
    return fmean([*(fake_logits > 0).tolist(), *(real_logits <= 0).tolist()])


def fit(generated: Tensor, real: Tensor, seed: int, steps: int, device: torch.device | str) -> PatchDiscriminator:
    """Train on random patches of both, (n, t, h, w, 3) uint8 each, half of every batch generated; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        network = PatchDiscriminator().to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LR, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=max(steps, 2), pct_start=0.15)
        for _ in range(steps):
            patches = torch.cat([random_patches(side, BATCH // 2, generator) for side in (generated, real)]).to(device)
            labels = (torch.arange(len(patches), device=device) < BATCH // 2).float()
            with torch.autocast(patches.device.type, torch.bfloat16):
                logits = network(patches)
            loss = F.binary_cross_entropy_with_logits(logits.float(), 0.05 + 0.9 * labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def random_patches(video_uint8: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Patches of random clips at random places, mirrored at random: (count, 3, ceil(t / 2), 32, 32) in [-1, 1]."""
    num_clips, _, height, width, _ = video_uint8.shape
    chosen = torch.randint(num_clips, (count,), generator=generator).tolist()
    tops = torch.randint(height - PATCH + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - PATCH + 1, (count,), generator=generator).tolist()
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    patches = torch.stack([_patch(video_uint8[i], top, left) for i, top, left in zip(chosen, tops, lefts, strict=True)])
    return torch.where(mirrored[:, None, None, None, None], patches.flip(-1), patches)


@torch.inference_mode()
def judge(network: PatchDiscriminator, video_uint8: Tensor) -> Tensor:
    """(n, t, h, w, 3) uint8 -> (n,): the mean logit over patches that cover the frames, and their mirror images."""
    device = network.head.weight.device
    logits = []
    for clip in video_uint8:
        patches = torch.stack(list(covering_patches(clip)))
        both = torch.cat([patches, patches.flip(-1)]).to(device)
        logits.append(network(both).mean().cpu())
    return torch.stack(logits)


def covering_patches(clip: Tensor) -> Iterator[Tensor]:
    """Patches of (t, h, w, 3) uint8 that cover its frames, evenly spaced."""
    height, width = clip.shape[1:3]
    for top in _starts(height):
        for left in _starts(width):
            yield _patch(clip, top, left)


def _starts(size: int) -> list[int]:
    return torch.linspace(0, size - PATCH, -(-size // PATCH)).round().long().tolist()


def _patch(clip: Tensor, top: int, left: int) -> Tensor:
    cut = clip[::FRAME_STEP, top : top + PATCH, left : left + PATCH]
    return rearrange(cut, "t h w c -> c t h w").float() / 127.5 - 1
