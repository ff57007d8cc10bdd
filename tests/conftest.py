"""Fixtures for all tests: the folder of real clips, a finished nano run, and tiny video files made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nano_run import make_run
from torch import Tensor

from pipelines.data.video_file import write_video
from pipelines.metrics.weight_files import FILES, how_to_fetch

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("real_clips", "folder with real and broken video files", default="../shared/data")


@pytest.fixture(scope="session")
def real_clips(pytestconfig: pytest.Config) -> Path:
    """The folder that the ini option real_clips names; the test is skipped where it does not exist."""
    folder = (pytestconfig.rootpath / pytestconfig.getini("real_clips")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder} (pytest's ini option real_clips) does not exist")
    return folder


@pytest.fixture(scope="session")
def real_weights() -> Callable[[str], Path]:
    """real_weights("vgg16") -> the file that `make weights` has put into weights/; without it the test is skipped."""

    def find(name: str) -> Path:
        file = ROOT / "weights" / FILES[name][0]
        if not file.is_file():
            pytest.skip(
                f"no real weights: weights/{file.name} is not there, which {how_to_fetch(name, 'weights')} fetches"
            )
        return file

    return find


@pytest.fixture(scope="session")
def nano_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that holds a finished run of the whole chain at nano size, called nano."""
    root = tmp_path_factory.mktemp("runs")
    make_run(root)
    return root


@pytest.fixture
def make_video() -> Callable[..., Tensor]:
    """make_video(frames, height, width, seed) -> (t, h, w, 3) uint8, smooth and different in every frame."""

    def make(num_frames: int = 20, height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
        random = np.random.default_rng(seed)
        coarse = torch.from_numpy(random.integers(0, 256, (1, 3, 4, 4))).float()
        wide = torch.nn.functional.interpolate(coarse, size=(height, width + 2 * num_frames), mode="bicubic")
        wide = wide[0].clamp(0, 255).byte().permute(1, 2, 0)
        return torch.stack([wide[:, 2 * t : 2 * t + width] for t in range(num_frames)])

    return make


@pytest.fixture
def make_file(make_video: Callable[..., Tensor]) -> Callable[..., Path]:
    """make_file(path, num_frames=..., height=..., width=..., seed=..., codec=...) writes such a video."""

    def make(path: Path, codec: str = "mpeg4", **shape: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, make_video(**shape), fps=25, codec=codec)
        return path

    return make
