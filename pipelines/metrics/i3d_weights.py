"""Finds, verifies and loads I3D weights; without a file, builds the stated proxy: the same network, random weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pipelines.metrics.full_precision import full_precision
from pipelines.metrics.i3d import MIN_FRAMES, InceptionI3D, preprocess
from pipelines.metrics.random_state import seeded
from pipelines.metrics.weight_files import FILES, checked_hash, how_to_fetch, read_tensors

TORCHSCRIPT_FILE = "i3d_torchscript.pt"
# File -> epsilon of its batch norms: TensorFlow's original has 1e-3, VideoGPT's port computed its scores with 1e-5,
# TorchScript has it inside.
BN_EPS = {"i3d_kinetics400.safetensors": 1e-3, TORCHSCRIPT_FILE: None, "i3d_pretrained_400.pt": 1e-5}
PROXY_BN_EPS = 1e-5
PRECISIONS = ("fp32", "bf16")
PROXY_SEED = 16
PROXY_TAPS = slice(2, 5)  # of 7, so that frames beyond the clip's ends, which are 0, meet few of them
PROXY_CLIP_SHAPE = (3, 16, 112, 112)  # (c, t, h, w) of a calibration clip


@dataclass(frozen=True)
class FeatureExtractor:
    """I3D ready to use. `network` is our InceptionI3D or the verified TorchScript module."""

    network: nn.Module
    weights_file: str  # name of the file that was loaded, "" for the proxy
    weights_hash: str  # `weight_files.content_hash` of that file; for the proxy "random-" and SHA-256 of its weights
    is_proxy: bool  # fixed random weights: scores carry the name proxy_fvd16
    precision: str = "fp32"  # "bf16": convolutions in bf16, about twice as fast on CPU, recorded in every result
    batch_size: int = 4  # clips per forward pass

    @torch.inference_mode()
    def features(self, video_uint8: Tensor) -> Tensor:
        """video_uint8: (n, t, h, w, 3) uint8, t >= 9 -> (n, 400) fp32 logits on the CPU, before softmax.

        Those of the proxy have length 1: it is large for a few clips, which would then decide alone.
        Raises ValueError when the clips are too short or not uint8.
        """
        if video_uint8.dtype != torch.uint8 or video_uint8.ndim != 5 or video_uint8.shape[1] < MIN_FRAMES:
            raise ValueError(
                f"I3D needs uint8 clips (n, t, h, w, 3) of at least {MIN_FRAMES} frames, got {video_uint8.dtype} of "
                f"shape {tuple(video_uint8.shape)}; use longer clips."
            )
        device = next(self.network.parameters()).device
        batches = video_uint8.split(self.batch_size)
        with full_precision():
            features = torch.cat([self._batch_features(batch.to(device)).float().cpu() for batch in batches])
        return F.normalize(features, dim=1) if self.is_proxy else features

    def _batch_features(self, video_uint8: Tensor) -> Tensor:
        if self.weights_file == TORCHSCRIPT_FILE:
            video = rearrange(video_uint8, "n t h w c -> n c t h w").float()
            return self.network(video, rescale=True, resize=True, return_features=True)
        video = preprocess(video_uint8)
        return self.network(video.bfloat16() if self.precision == "bf16" else video)

    @torch.inference_mode()
    def prepared_features(self, video: Tensor) -> Tensor:
        """video: (n, 3, t, 224, 224) float, as the network itself takes it -> (n, 400) fp32 on the CPU."""
        video = video.to(next(self.network.parameters()).device)
        with full_precision():
            if self.weights_file == TORCHSCRIPT_FILE:
                return self.network(video, rescale=False, resize=False, return_features=True).float().cpu()
            return self.network(video.bfloat16() if self.precision == "bf16" else video).float().cpu()


def load_i3d(
    folder: str | Path,
    precision: str = "fp32",
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    preferred: str = "",
) -> FeatureExtractor:
    """Load I3D from `folder`, or build the proxy (is_proxy=True) when none of its files is there.

    Looked for: `preferred` (what a protocol wants), then the files of BN_EPS in their order. A TorchScript network
    always runs in fp32, as published scores did. Raises ValueError when a file is there but is not what its name says.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"I3D precision is fp32 or bf16, got {precision!r}; set one of the two.")
    names = filter(None, (preferred, *BN_EPS))
    path = next((path for name in names if (path := Path(folder) / name).is_file()), None)
    if path is None:
        network = build_proxy(PROXY_BN_EPS)
        weights_file, weights_hash = "", hash_weights(network)
    else:
        weights_file, weights_hash = path.name, checked_hash(path)
        if weights_file == TORCHSCRIPT_FILE:
            script = torch.jit.load(path, map_location="cpu").to(device).eval()
            return FeatureExtractor(script, weights_file, weights_hash, False, "fp32", batch_size)
        network = _load_state_dict(path)
    if precision == "bf16":  # batch norm takes bf16 activations with its own fp32 statistics
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv3d) and not name.startswith("logits"):
                module.bfloat16()
    network.to(device).eval()
    return FeatureExtractor(network, weights_file, weights_hash, path is None, precision, batch_size)


def weights_word(weights_file: str, weights_hash: str) -> str:
    """How ids of scores name the weights: the file's name, for ours with the first digits of its hash; "" = proxy."""
    stem = weights_file.partition(".")[0]
    return f"i3d-{weights_hash[:8]}" if weights_file == FILES["i3d"][0] else stem


def absent_weights(folder: str | Path) -> str:
    """One sentence for who has no I3D weights."""
    return (
        f"there are no I3D weights in {folder} ({how_to_fetch('i3d', folder)}): until then the distance is a proxy on "
        "random weights, which compares with nothing published"
    )


def _load_state_dict(path: Path) -> InceptionI3D:
    bn_eps = BN_EPS[path.name]
    assert bn_eps is not None
    network, state = InceptionI3D(bn_eps), read_tensors(path)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} does not hold the 344 tensors of I3D with 400 logits ({reason}): remove it, and fetch it again"
        ) from error
    return network


def hash_weights(network: nn.Module) -> str:
    """ "random-" and the SHA-256 of the network's parameters (not of its statistics, whose last bits vary by CPU)."""
    digest = hashlib.sha256()
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return f"random-{digest.hexdigest()}"


def calibration_clips(num_clips: int, generator: torch.Generator) -> Tensor:
    """(num_clips, 3, 16, 112, 112) in [-1, 1]: smooth noise of a 1/f-like spectrum, finer layers changing faster."""
    channels, frames, height, width = PROXY_CLIP_SHAPE
    clips = torch.zeros(num_clips, *PROXY_CLIP_SHAPE)
    for cells, frame_cells in ((2, 2), (4, 3), (8, 4), (16, 6), (32, 8), (56, 16)):
        noise = torch.randn(num_clips, channels, frame_cells, cells, cells, generator=generator)
        layer = F.interpolate(noise, size=(frames, height, width), mode="trilinear", align_corners=False)
        clips += layer * cells**-0.5
    return torch.tanh(0.8 * clips)


def build_proxy(bn_eps: float, num_clips: int = 3) -> InceptionI3D:
    """The same network with fixed random weights, in eval mode; it depends on `bn_eps` and a constant seed only.

    Random weights cannot know what a video shows, so the first layer is made to see change alone: its kernels span
    PROXY_TAPS frames and sum to 0 over them. With whole random kernels the content of a few dozen clips hides even
    frozen and shuffled ones (docs/results/metric_sanity.md). He initialisation keeps the variance; batch-norm
    statistics are those of `calibration_clips`, so that at every layer each channel has mean 0 and variance 1 before
    its ReLU: else deep random features of all clips are nearly parallel.
    """
    with seeded(0), torch.no_grad():  # PyTorch's own initialisation, overwritten below
        network = InceptionI3D(bn_eps)
        generator = torch.Generator().manual_seed(PROXY_SEED)
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, (2 / fan_in) ** 0.5, generator=generator)
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = None  # a plain average: after one batch, that batch's statistics
        first = network.Conv3d_1a_7x7.conv3d.weight  # (64, 3, time, height, width)
        taps = first[:, :, PROXY_TAPS] - first[:, :, PROXY_TAPS].mean(dim=2, keepdim=True)
        first.zero_()[:, :, PROXY_TAPS] = taps
        network.logits.conv3d.bias.zero_()
        network.train().trunk(calibration_clips(num_clips, generator))
    return network.eval()
