"""Models for the tests of stages."""

from pathlib import Path

import pytest
from tiny_vae import tiny_vae


@pytest.fixture(scope="session")
def autoencoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny autoencoders, saved as a run saves them: default, plain, no_motion, paper. Only to be read."""
    folder = tmp_path_factory.mktemp("autoencoders")
    for variant in ("default", "plain", "no_motion", "paper"):
        tiny_vae(variant).save_pretrained(folder / variant)
    return folder
