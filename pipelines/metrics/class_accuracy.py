"""Class accuracy: a small video classifier, trained on real clips, asked for the class of generated ones.

Train it on decoded reconstructions of real training clips, so that it judges motion and not the decoder's blur. The
control is the same classifier trained and tested on `repeat_first_frame` clips: what one frame tells about the class.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pipelines.metrics.declared import ALWAYS, HIGHER, Metric, declare
from pipelines.metrics.random_state import seeded

INPUT_SIZE = 32  # pixels; frames of any size are averaged down to this
FRAME_STEP = 2  # every second frame: twice the motion per step at half the cost
MAX_SHIFT = 4  # pixels of 32, augmentation
BATCH_SIZE = 32
PEAK_LR = 6e-3
CLASSIFIERS = "{classifier_seeds} classifiers, {classifier_steps} steps, {classifier_clips} clips"

declare(
    Metric(
        "class_accuracy",
        "Share of generated videos that a small video classifier assigns to the class asked for. The classifier was "
        "trained on real training clips, decoded from their latents and as they are. Mean over its seeds. The embedded "
        "shapes in their plain look need none: their motion is read from the drawing that fits best.",
        HIGHER,
        CLASSIFIERS,
        summary=ALWAYS,
    )
)
for name, meaning in {
    "class_accuracy_real": "The same classifiers on real held-out clips.",
    "class_accuracy_real_decoded": "The same on real held-out clips after encoding and decoding: what a perfect "
    "generator would reach.",
    "class_accuracy_first_frame": "Classifiers trained and tested on first frames alone, on real held-out clips: what "
    "can be told without motion.",
}.items():
    declare(Metric(name, meaning, HIGHER, CLASSIFIERS, is_detail=True, summary=ALWAYS))


def _unit(in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Module:
    padding = tuple(size // 2 for size in kernel)
    convolution = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True))


class VideoClassifier(nn.Module):
    """Three 3-D convolutions over frames and their temporal differences, a mean over space and time, a linear layer."""

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _unit(6, width, (3, 5, 5), (1, 2, 2)),
            _unit(width, 2 * width, (3, 3, 3), (1, 2, 2)),
            _unit(2 * width, 4 * width, (3, 3, 3), (2, 2, 2)),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (n, 3, t, 32, 32) float in [-1, 1] from `shrink` -> (n, num_classes) logits."""
        differences = torch.diff(frames, dim=2, prepend=frames[:, :, :1])  # (n, 3, t, 32, 32), zeros at t = 0
        x = self.trunk(torch.cat([frames, 2 * differences], dim=1))  # (n, 4 width, t', 4, 4)
        return self.head(self.dropout(x.mean(dim=(2, 3, 4))))


def shrink(video_uint8: Tensor) -> Tensor:
    """video_uint8: (n, t, h, w, 3) uint8 -> (n, 3, ceil(t / 2), 32, 32) float in [-1, 1], the classifier's input."""
    shrunk = []
    for clips in video_uint8[:, ::FRAME_STEP].split(32):  # float copies of few clips at a time
        frames = rearrange(clips, "n t h w c -> (n t) c h w").float() / 127.5 - 1
        frames = F.interpolate(frames, size=(INPUT_SIZE, INPUT_SIZE), mode="area")
        shrunk.append(rearrange(frames, "(n t) c h w -> n c t h w", n=clips.shape[0]))
    return torch.cat(shrunk)


def repeat_first_frame(video_uint8: Tensor) -> Tensor:
    """video_uint8: (n, t, h, w, 3) -> the same shape, every frame the first one."""
    return video_uint8[:, :1].expand_as(video_uint8)


def augment(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each clip by up to 4 pixels and vary its colours; no flips and no reversal, for they change the class.

    frames: (n, 3, t, 32, 32) -> the same shape. Colours: channels permuted, each scaled by 0.7..1.3 and shifted.
    """
    num_clips = frames.shape[0]
    order = torch.rand(num_clips, 3, generator=generator).argsort(dim=1)
    frames = frames.gather(1, order[:, :, None, None, None].expand_as(frames))
    gains = 0.7 + 0.6 * torch.rand(num_clips, 3, 1, 1, 1, generator=generator)
    frames = frames * gains + 0.2 * torch.randn(num_clips, 3, 1, 1, 1, generator=generator)
    padded = F.pad(frames, (MAX_SHIFT, MAX_SHIFT, MAX_SHIFT, MAX_SHIFT, 0, 0), mode="replicate")
    corners = torch.randint(0, 2 * MAX_SHIFT + 1, (num_clips, 2), generator=generator).tolist()
    crops = [
        clip[:, :, top : top + INPUT_SIZE, left : left + INPUT_SIZE]
        for clip, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack(crops)


def fit(
    video_uint8: Tensor, labels: Tensor, num_classes: int, seed: int, steps: int, device: torch.device | str = "cpu"
) -> VideoClassifier:
    """Train a classifier; the global random state is left as it was.

    video_uint8: (n, t, h, w, 3) uint8, any size; labels: (n,) int in [0, num_classes). Returns it in eval mode. Raises
    ValueError when labels are missing or out of range.
    """
    if len(labels) != len(video_uint8) or len(labels) == 0 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"class accuracy needs a label in 0..{num_classes - 1} for each of {len(video_uint8)} clips, got "
            f"{len(labels)} labels, some missing or out of range; use data with classes or evaluate.classifier_seeds=0."
        )
    frames, labels = shrink(video_uint8), labels.long()
    batch_size = min(BATCH_SIZE, len(frames))
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):  # initialisation and dropout
        model = VideoClassifier(num_classes).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=max(steps, 2), pct_start=0.15)
        queue = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(queue) < batch_size:
                queue = torch.randperm(len(frames), generator=generator)  # a new epoch, its short rest is dropped
            batch, queue = queue.tensor_split([batch_size])
            inputs = augment(frames[batch], generator).to(device)
            with torch.autocast(inputs.device.type, torch.bfloat16):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), labels[batch].to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _seen(video_uint8: Tensor) -> Iterator[Tensor]:
    """The classifier's input for 32 clips at a time; float copies of few clips are in memory at once."""
    for clips in video_uint8.split(256):
        yield from shrink(clips).split(32)


@torch.inference_mode()
def predict(classifier: VideoClassifier, video_uint8: Tensor) -> Tensor:
    """video_uint8: (n, t, h, w, 3) uint8 -> (n,) int64, the most likely class of each clip."""
    device = classifier.head.weight.device
    return torch.cat([classifier(frames.to(device)).argmax(dim=1).cpu() for frames in _seen(video_uint8)])


def accuracy(classifier: VideoClassifier, video_uint8: Tensor, labels: Tensor) -> float:
    """Share of clips (n, t, h, w, 3) uint8 whose predicted class is their label (n,); chance is 1 / num_classes."""
    return (predict(classifier, video_uint8) == labels).float().mean().item()
