"""Tiles: they cover the frame, their weights sum to one, a network with a small field of view does not notice them."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vae.tiling import Tiling, tile_starts, tiled


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(2, 20), st.data())
def test_tiles_have_the_full_size_and_overlap_enough(length, tile, data):
    overlap = data.draw(st.integers(1, tile - 1))
    starts = tile_starts(length, tile, overlap)
    if length <= tile:
        assert starts == [0]
        return
    assert starts[0] == 0 and starts[-1] + tile == length
    steps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert all(0 < step <= tile - overlap for step in steps)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 12), st.data())
def test_identity_gives_the_frame_back(height, width, tile, data):
    overlap = data.draw(st.integers(1, tile - 1))
    x = random(2, 3, 2, height, width)
    assert torch.equal(tiled(lambda x, _: x, x, tile, overlap, 1), x)


@pytest.mark.parametrize("size", [(40, 88), (33, 50), (64, 64)])
def test_weights_sum_to_one_and_fade_linearly(size):
    """Each tile returns its own constant: the result is a blend of them, and identical constants give themselves."""
    ones = tiled(lambda x, _: torch.ones_like(x), torch.zeros(1, 1, 1, *size), 16, 8, 1)
    assert torch.equal(ones, torch.ones(1, 1, 1, *size))
    ramp = tiled(lambda x, index: torch.full_like(x, index[1]), torch.zeros(1, 1, 1, 8, 24), 16, 8, 1)
    expected = torch.cat([torch.zeros(8), 8 * (torch.arange(8) + 0.5) / 8, torch.full((8,), 8.0)])
    torch.testing.assert_close(ramp[0, 0, 0, 0], expected)


@pytest.mark.parametrize("scale", [Fraction(1, 4), Fraction(4), 4, 1])
def test_sizes_scale(scale):
    def network(x, _):
        return F.interpolate(x, scale_factor=(1, float(scale), float(scale)), mode="nearest")

    x = random(1, 2, 3, 24, 56)
    torch.testing.assert_close(tiled(network, x, 16, 4, scale), network(x, (0, 0)))


def test_a_small_frame_goes_through_in_one_call():
    calls = []

    def network(x, index):
        calls.append((tuple(x.shape), index))
        return x

    tiled(network, torch.zeros(1, 3, 5, 16, 12), 16, 8, 1)
    assert calls == [((1, 3, 5, 16, 12), (0, 0))]


def test_each_tile_has_its_own_index():
    seen = []

    def network(x, index):
        seen.append(index)
        assert x.shape[-2:] == (16, 16)
        assert torch.equal(x[0, 0, 0], frame[0, 0, 0, index[0] : index[0] + 16, index[1] : index[1] + 16])
        return x

    frame = random(1, 1, 1, 40, 33)
    tiled(network, frame, 16, 4, 1)
    assert len(set(seen)) == len(seen) == 3 * 3


def test_a_network_that_sees_less_than_the_overlap_differs_only_by_rounding_at_the_seams():
    """Away from tile borders a convolution agrees; at them the padding of the tile shows with a low weight."""
    kernel = torch.full((1, 1, 1, 3, 3), 1 / 9)

    def network(x, _):
        return F.conv3d(F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"), kernel)

    axis = torch.linspace(0, 3, 96)
    smooth = (axis.sin()[:, None] * axis.cos())[None, None, None]
    difference = (tiled(network, smooth, 32, 16, 1) - network(smooth, (0, 0))).abs()
    assert difference.max() < 2e-3


@pytest.mark.parametrize(("tile_size", "overlap"), [(64, 64), (64, 0), (64, -8), (0, 0)])
def test_impossible_tiles_are_refused(tile_size, overlap):
    with pytest.raises(ValueError, match="overlap .*tile_size"):
        Tiling(tile_size, overlap)
