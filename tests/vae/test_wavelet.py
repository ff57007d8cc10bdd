"""The Haar transform is orthonormal, exactly invertible, and puts what is constant into the low band."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae.wavelet import (
    haar_spatial,
    haar_spatiotemporal,
    inverse_haar_spatial,
    inverse_haar_spatiotemporal,
    split_bands,
)

PAIRS = [(haar_spatial, inverse_haar_spatial), (haar_spatiotemporal, inverse_haar_spatiotemporal)]


@pytest.mark.parametrize(("forward", "inverse"), PAIRS)
@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
def test_inverse_and_energy(forward, inverse, shape):
    batch, channels, frames, height, width = shape
    video = torch.randn(batch, channels, 2 * frames, 2 * height, 2 * width, dtype=torch.float64)
    bands = forward(video)
    torch.testing.assert_close(inverse(bands), video)
    torch.testing.assert_close(bands.square().sum(), video.square().sum())


@pytest.mark.parametrize(("forward", "gain"), [(haar_spatial, 2.0), (haar_spatiotemporal, 8**0.5)])
def test_a_constant_is_low_band_only(forward, gain):
    low, high = split_bands(forward(torch.full((1, 3, 2, 4, 4), 0.25)), channels=3)
    torch.testing.assert_close(low, torch.full_like(low, 0.25 * gain))
    assert high.abs().max() < 1e-6


def test_bands_are_averages_and_differences():
    """Against the definition, written out for one 2 x 2 block."""
    a, b, c, d = 1.0, 2.0, 5.0, 11.0
    bands = haar_spatial(torch.tensor([[a, b], [c, d]]).reshape(1, 1, 1, 2, 2)).flatten()
    expected = [(a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]
    torch.testing.assert_close(bands, torch.tensor(expected))
