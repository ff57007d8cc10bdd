"""LPIPS: never on a random backbone, on the file's tensors as torchvision computes with them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from pipelines.inputs.experiment import Experiment
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES, load_lpips, lpips_distance
from pipelines.metrics.weight_files import FILES, KNOWN_CONTENT, content_hash
from pipelines.run.config import load_config
from pipelines.run.stage import DEFAULT_CONFIG
from pipelines.train_vae import perceptual_loss

NETWORKS = {"alex": alexnet, "vgg": vgg16}
# Both kinds of files, and both networks; the large one once.
FILES_TO_READ = [*(("alex", file) for file in FILES["alexnet"]), ("vgg", FILES["vgg16"][0])]
every_file = pytest.mark.parametrize(("network", "file"), FILES_TO_READ)


def random_video(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def reference(network: str) -> nn.Module:
    """torchvision's `features` with random weights; its large linear layers are never made."""
    torch.manual_seed(0)
    with torch.device("meta"):
        features = NETWORKS[network](weights=None).eval().features
    features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return features


def write_backbone(path: Path, features: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """The convolutions in a file of either kind, which is the known one of its name from now on."""
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    patch.setitem(KNOWN_CONTENT, path.name, (KNOWN_CONTENT[path.name][0], content_hash(path)))


def test_without_its_backbone_it_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    for network, name in LPIPS_BACKBONES.items():
        command = f"python pipelines/weights.py {name} weights.folder={tmp_path}"
        with pytest.raises(ValueError, match=f"LPIPS on {network} needs {name} in {tmp_path}: {command}"):
            load_lpips(tmp_path, network)
    with pytest.raises(ValueError, match="one of alex, vgg, got 'squeeze'"):
        load_lpips(tmp_path, "squeeze")
    config = load_config(Experiment, ["vae.losses.perceptual=1", f"weights.folder={tmp_path}"], DEFAULT_CONFIG)
    with pytest.raises(ValueError, match=f"weights.py vgg16 weights.folder={tmp_path}; .*vae.losses.perceptual=0"):
        perceptual_loss(config)
    off = load_config(Experiment, ["vae.losses.perceptual=0", f"weights.folder={tmp_path}"], DEFAULT_CONFIG)
    assert perceptual_loss(off) is None


@every_file
def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, file: str) -> None:
    path = tmp_path / file
    path.write_bytes(b"not a state dict")
    with pytest.raises(ValueError, match=f"{file} (is cut|cannot be).*remove it, and fetch it again"):
        load_lpips(tmp_path, network)
    write_backbone(path, nn.Sequential(), monkeypatch)
    with pytest.raises(ValueError, match=f"{file} is not torchvision's {LPIPS_BACKBONES[network]}"):
        load_lpips(tmp_path, network)


@every_file
def test_its_backbone_is_the_one_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, file: str
) -> None:
    """Every convolution arrives: the slices of the package compute what torchvision's layers do."""
    theirs = reference(network)
    write_backbone(tmp_path / file, theirs, monkeypatch)
    before = torch.random.get_rng_state()
    model = load_lpips(tmp_path, network)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    x = images = torch.rand(1, 3, 64, 64)
    for i in range(1, 6):
        x = getattr(model.net, f"slice{i}")(x)
    torch.testing.assert_close(x, theirs[: 12 if network == "alex" else 30](images))
    a, b = random_video(6, 2, 2, 64, 64), random_video(7, 2, 2, 64, 64)
    torch.testing.assert_close(lpips_distance(model, a, a), torch.zeros(2))
    distances = lpips_distance(model, a, b)
    assert (distances > 0).all() and distances.shape == (2,)
    assert torch.equal(distances[:1], lpips_distance(model, a[:1], b[:1])), "clip by clip"
    with pytest.raises(ValueError, match="of one shape"):
        lpips_distance(model, a, b[:, :1])


def test_the_file_that_is_fetched_goes_before_the_one_put_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And training takes the network that its option names."""
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"not opened")
    write_backbone(tmp_path / "alexnet.safetensors", reference("alex"), monkeypatch)
    options = ["vae.losses.perceptual=1", "vae.losses.perceptual_network=alex", f"weights.folder={tmp_path}"]
    network = perceptual_loss(load_config(Experiment, options, DEFAULT_CONFIG))
    assert network is not None
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert network(images, images).abs().max() == 0 and (network(images, -images) > 0).all()
