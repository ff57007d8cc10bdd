"""Inception-I3D (Carreira & Zisserman 2017), the feature network of the Frechet video distance.

Parameter names follow the public `i3d_pretrained_400.pt`, so a user's file loads strictly (i3d_weights.py does it).
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

NUM_LOGITS = 400  # classes of Kinetics-400
MIN_FRAMES = 9  # fewer leave nothing for the last average pool, which spans 2 of every 8 frames

# Output channels of every Inception block: (b0, b1 squeeze, b1, b2 squeeze, b2, b3), Table/Figure 3 of the paper.
INCEPTION_CHANNELS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def pad_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zero-pad x: (b, c, t, h, w) as TensorFlow's SAME does: ceil(size / stride) outputs, the odd pixel behind."""
    padding: list[int] = []
    for size, kernel_size, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((-(-size // step) - 1) * step + kernel_size - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


class Unit3D(nn.Module):
    """Convolution with SAME padding, batch norm and ReLU; the logits unit has a bias instead of both."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, bn_eps: float | None = 1e-5
    ) -> None:
        super().__init__()
        # At stride 1 SAME is kernel // 2 on both sides; only the strided stem depends on the input's size.
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=bn_eps is None)
        self.bn = None if bn_eps is None else nn.BatchNorm3d(out_channels, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, c, t, h, w) -> (b, out_channels, ceil(t / stride), ceil(h / stride), ceil(w / stride))."""
        if self.conv3d.stride != (1, 1, 1):
            x = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        x = self.conv3d(x)
        return x if self.bn is None else F.relu(self.bn(x))


class MaxPoolSame(nn.Module):
    """Max pool with SAME padding; padding with 0 equals TensorFlow's -inf because its inputs come out of a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, c, t, h, w), not negative -> (b, c, ceil(t / st), ceil(h / sh), ceil(w / sw))."""
        if self.stride == (1, 1, 1):
            return F.max_pool3d(x, self.kernel, self.stride, padding=(1, 1, 1))
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class InceptionBlock(nn.Module):
    """Four branches side by side: 1x1x1, 1x1x1 -> 3x3x3 twice, and max pool -> 1x1x1."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int, int, int], bn_eps: float) -> None:
        super().__init__()
        self.b0 = Unit3D(in_channels, channels[0], bn_eps=bn_eps)
        self.b1a = Unit3D(in_channels, channels[1], bn_eps=bn_eps)
        self.b1b = Unit3D(channels[1], channels[2], kernel=3, bn_eps=bn_eps)
        self.b2a = Unit3D(in_channels, channels[3], bn_eps=bn_eps)
        self.b2b = Unit3D(channels[3], channels[4], kernel=3, bn_eps=bn_eps)
        self.b3a = MaxPoolSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, channels[5], bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, c, t, h, w) -> (b, sum of the branches' channels, t, h, w)."""
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


class InceptionI3D(nn.Module):
    """Inception-I3D on RGB with 400 logits: 12,697,264 parameters, 344 state-dict keys.

    `bn_eps` is 1e-5 for i3d_pretrained_400.pt and 1e-3 for weights ported from tf-hub: the files do not say which.
    """

    def __init__(self, bn_eps: float = 1e-5) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, kernel=7, stride=2, bn_eps=bn_eps)
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, bn_eps=bn_eps)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, kernel=3, bn_eps=bn_eps)
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        in_channels = 192
        for name, channels in INCEPTION_CHANNELS.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
            self.add_module(name, InceptionBlock(in_channels, channels, bn_eps))
            in_channels = channels[0] + channels[2] + channels[4] + channels[5]
        self.logits = Unit3D(in_channels, NUM_LOGITS, bn_eps=None)

    def trunk(self, x: Tensor) -> Tensor:
        """x: (b, 3, t, h, w) in [-1, 1] -> (b, 1024, ceil(t / 8), ceil(h / 32), ceil(w / 32)); layers as declared."""
        for name, layer in self.named_children():
            if name != "logits":
                x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, 3, t, h, w) in [-1, 1], t >= 9, h, w >= 193 -> (b, 400) logits averaged over time."""
        x = self.trunk(x).to(self.logits.conv3d.weight.dtype)  # the trunk may run in bf16
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)  # (b, 1024, t', 1, 1) at 224 x 224
        return reduce(self.logits(x), "b c t h w -> b c", "mean")


def preprocess(video_uint8: Tensor) -> Tensor:
    """video_uint8: (n, t, h, w, 3) uint8 -> (n, 3, t, 224, 224) float in [-1, 1].

    Bilinear, align_corners=False, no antialias: what the reference TorchScript does, for FVD depends on it.
    """
    num_clips = video_uint8.shape[0]
    frames = rearrange(video_uint8, "n t h w c -> (n t) c h w").float()
    frames = F.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False, antialias=False)
    video = rearrange(frames, "(n t) c h w -> n c t h w", n=num_clips) / 127.5 - 1
    return video.contiguous()  # one memory layout, so that slices and copies of a clip give equal features
