"""With the real weights: I3D gives its golden value, LPIPS what a restatement in plain torch and its package give.

They are fetched by `make weights`; where they are not there, these tests are skipped.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor, to_pil_image

from pipelines.data.synthetic import MovingShapesConfig, write_moving_shapes
from pipelines.data.video_file import read_video
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.scoring_networks import open_lpips
from pipelines.metrics.i3d_self_check import GOLDEN, self_check
from pipelines.metrics.i3d_weights import load_i3d
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES, load_lpips, lpips_distance
from pipelines.metrics.weight_files import KNOWN_CONTENT, checked_hash
from pipelines.run.config import load_config
from pipelines.run.stage import DEFAULT_CONFIG

NUM_PAIRS = 20
MIDDLE = slice(8, 56)  # of 64 pixels
every_network = pytest.mark.parametrize("network", LPIPS_BACKBONES)


@pytest.mark.parametrize("name", ["i3d", "alexnet", "vgg16"])
def test_a_file_has_its_known_content(real_weights: Callable[[str], Path], name: str) -> None:
    path = real_weights(name)
    assert checked_hash(path) == KNOWN_CONTENT[path.name][1]


def test_black_and_white_are_as_far_apart_as_others_measured(real_weights: Callable[[str], Path]) -> None:
    path = real_weights("i3d")
    extractor = load_i3d(path.parent)
    assert not extractor.is_proxy and extractor.weights_hash == KNOWN_CONTENT[path.name][1]
    assert self_check(extractor, GOLDEN[path.name]) == pytest.approx(151.3925, abs=0.01)


@pytest.fixture(scope="module")
def pairs(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """Two videos (20, 1, 48, 48, 3) uint8: frames of real clips, else of the embedded ones; and the same damaged."""
    folder = pytestconfig.rootpath / pytestconfig.getini("real_clips") / "actions64"
    if not folder.is_dir():
        folder = tmp_path_factory.mktemp("shapes") / "moving_shapes"
        write_moving_shapes(folder, MovingShapesConfig(num_frames=17, train_per_class=2, validation_per_class=1))
    files = sorted(folder.rglob("*.avi"))[:NUM_PAIRS]
    frames = torch.stack([read_video(file, [10])[0, MIDDLE, MIDDLE] for file in files])
    damaged = torch.stack([damage(frame, i) for i, frame in enumerate(frames)])
    return frames.unsqueeze(1), damaged.unsqueeze(1)


def damage(frame: Tensor, number: int) -> Tensor:
    """frame: (h, w, 3) uint8 -> the same with noise, a blur, or JPEG's blocks, of growing strength."""
    image, strength = frame.movedim(-1, 0), 1 + number // 3
    if number % 3 == 0:
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(number))
        image = (image + 6 * strength * noise).round().clamp(0, 255).byte()
    elif number % 3 == 1:
        image = gaussian_blur(image, [9, 9], [0.4 * strength, 0.4 * strength])
    else:
        file = io.BytesIO()
        to_pil_image(image).save(file, "JPEG", quality=80 - 10 * strength)
        image = pil_to_tensor(Image.open(file))
    return image.movedim(0, -1)


def images(video: Tensor) -> Tensor:
    """video: (n, 1, h, w, 3) uint8 -> (n, 3, h, w) in [-1, 1]."""
    return video.squeeze(1).movedim(-1, 1).float() / 127.5 - 1


# torchvision's `features`, said once more: numbers are layers N with a file's features.N, "pool" halves.
# After the ReLU behind a layer of the second list the features are compared.
STACKS = {
    "alex": ([0, "pool", 3, "pool", 6, 8, 10], [0, 3, 6, 8, 10]),
    "vgg": ([0, 2, "pool", 5, 7, "pool", 10, 12, 14, "pool", 17, 19, 21, "pool", 24, 26, 28], [2, 7, 14, 21, 28]),
}


def restated_features(x: Tensor, state: dict[str, Tensor], network: str) -> list[Tensor]:
    stack, compared = STACKS[network]
    window = 3 if network == "alex" else 2
    found = []
    for layer in stack:
        if layer == "pool":
            x = F.max_pool2d(x, window, stride=2)
            continue
        weight = state[f"features.{layer}.weight"].double()
        stride, padding = (4, 2) if weight.shape[-1] == 11 else (1, weight.shape[-1] // 2)
        x = F.conv2d(x, weight, state[f"features.{layer}.bias"].double(), stride, padding).clamp(min=0)
        if layer in compared:
            found.append(x)
    return found


def restated_lpips(a: Tensor, b: Tensor, path: Path, network: str) -> Tensor:
    """Zhang et al. 2018, Eq. 1, in fp64: the distance of unit vectors, weighted by channel, meaned over places."""
    state = load_file(path)
    file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{network}.pth"
    heads = torch.load(file, map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    a, b = ((x.double() - shift) / scale for x in (a, b))
    total = torch.zeros(len(a), dtype=torch.float64)
    both = zip(restated_features(a, state, network), restated_features(b, state, network), strict=True)
    for i, features in enumerate(both):
        first, second = (x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in features)
        weights = heads[f"lin{i}.model.1.weight"].double().flatten()
        total += torch.einsum("nchw,c->nhw", (first - second).square(), weights).mean(dim=(1, 2))
    return total


@every_network
def test_lpips_equals_its_restatement(
    real_weights: Callable[[str], Path], pairs: tuple[Tensor, Tensor], network: str
) -> None:
    path = real_weights(LPIPS_BACKBONES[network])
    ours = lpips_distance(load_lpips(path.parent, network), *pairs)
    theirs = restated_lpips(*map(images, pairs), path, network)
    assert len(ours) == NUM_PAIRS and (ours.double() - theirs).abs().max() <= 1e-6
    for kind in range(3):  # noise, blur, JPEG: the stronger, the farther
        distances = ours[kind::3]
        assert distances[-1] > distances[0] > 0
    assert lpips_distance(load_lpips(path.parent, network), pairs[0][:2], pairs[0][:2]).abs().max() == 0


@every_network
def test_lpips_equals_its_package(
    real_weights: Callable[[str], Path], pairs: tuple[Tensor, Tensor], network: str
) -> None:
    """The package's own module, whose convolutions are set one after the other, in the order of the file's layers."""
    path = real_weights(LPIPS_BACKBONES[network])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = lpips.LPIPS(net=network, pnet_rand=True, verbose=False).eval()
    state = load_file(path)
    layers = sorted({int(name.split(".")[1]) for name in state})
    convolutions = [layer for layer in module.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for number, convolution in zip(layers, convolutions, strict=True):
        for name, parameter in convolution.named_parameters():
            parameter.data.copy_(state[f"features.{number}.{name}"])
    options = [f"weights.folder={path.parent}", f"evaluate.lpips_network={network}"]
    ours = open_lpips(load_config(Experiment, options, DEFAULT_CONFIG), torch.device("cpu"))
    a, b = (images(video)[:4] for video in pairs)
    with torch.inference_mode():
        assert ours is not None and torch.equal(ours(a, b), module(a, b))
