"""Frame scores through torchvision's Inception: the file is the known one, features and logits are its own."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.metrics.inception import build_inception, frame_features, load_inception, split_frames
from pipelines.metrics.weight_files import FILES, KNOWN_CONTENT


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_inception()


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return torch.randint(0, 256, (2, 5, 20, 20, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_only_the_file_with_the_known_hash_is_opened(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILES["inception"][0]
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected 0cc3c7bd"):
        load_inception(path)
    torch.save(network.state_dict(), path)
    digits = sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(KNOWN_CONTENT, path.name, ("sha256", digits))
    loaded = load_inception(path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_features_are_what_the_last_layer_sees(network: torch.nn.Module, clips: Tensor) -> None:
    features = frame_features(clips, network, num_frames=2)
    assert features.shape == (2, 2 * (2048 + 1000))
    pooled, logits = split_frames(features)
    with torch.inference_mode():
        torch.testing.assert_close(network.fc(pooled), logits, rtol=1e-4, atol=1e-5)
        last = clips[1, 4].movedim(-1, 0).float().unsqueeze(0) / 255  # the frames are the first and the last of a clip
        large = torch.nn.functional.interpolate(last, size=(299, 299), mode="bilinear", antialias=True)
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        expected = network((large - mean) / std)
    torch.testing.assert_close(logits[3], expected[0], rtol=1e-3, atol=1e-4)
    assert not network.avgpool._forward_hooks, "it leaves nothing behind"
