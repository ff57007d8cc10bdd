"""What Latte is made of: rotary positions by their invariants, the gated MLP, heads."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_latte import DECOUPLED, PLAIN, random_latents, tiny_latte
from torch.nn.functional import silu

from latte.blocks import ModulatedNorm, build_mlp, rotation_along
from latte.config import SIZES, LatteConfig, build_records
from latte.embeddings import rotate, rotation_angles
from latte.latte import Latte


def cos_sin(angles):
    return torch.stack([angles.cos(), angles.sin()])


@settings(deadline=None, max_examples=25)
@given(
    head_size=st.sampled_from([6, 8, 18, 64, 72]), shift=st.tuples(*[st.integers(-3, 3)] * 3), seed=st.integers(0, 9)
)
def test_products_of_rotated_vectors_depend_on_differences_of_positions(head_size, shift, seed):
    """Rows, columns and times in turn: moving query and key together changes nothing, and no length changes."""
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 1, head_size, generator=generator)
    height, width, times = 8, 9, torch.arange(8)
    table = rotation_angles(times, height, width, head_size)  # (8, 72, head_size / 2)

    def at(vector, time, row, column):
        return rotate(vector, cos_sin(table[time, row * width + column][None]))

    near, far = (3, 3, 4), (4, 5, 3)
    moved = [tuple(p + s for p, s in zip(place, shift, strict=True)) for place in (near, far)]
    moved = [tuple(min(max(p, 0), 7) for p in place) for place in moved]
    if all(b - a == d - c for a, b, c, d in zip(near, far, *moved, strict=True)):
        torch.testing.assert_close(at(query, *near) @ at(key, *far).T, at(query, *moved[0]) @ at(key, *moved[1]).T)
    torch.testing.assert_close(at(query, *far).norm(), query.norm())
    torch.testing.assert_close(at(query, 0, 0, 0), query)


def test_rotation_follows_the_formula_on_every_axis():
    table = rotation_angles(
        torch.tensor([0, 4]), 2, 3, 16
    )  # 8 pairs: 2 turn with time, 3 with the row, 3 with the column
    assert table.shape == (2, 6, 8)
    for (f, time), row, column in itertools.product(enumerate([0, 4]), range(2), range(3)):
        expected = [time * 100 ** (-i / 2) for i in range(2)]
        expected += [row * 100 ** (-i / 3) for i in range(3)] + [column * 100 ** (-i / 3) for i in range(3)]
        torch.testing.assert_close(table[f, row * 3 + column], torch.tensor(expected))
    angle = torch.tensor([[0.3]])
    turned = rotate(torch.tensor([[1.0, 0.0]]), cos_sin(angle))
    torch.testing.assert_close(turned, torch.cat([angle.cos(), angle.sin()], dim=1))


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_rotary_positions_tell_frames_and_patches_apart(attention):
    """Without positions a transformer permutes its output with its tokens; with them it does not."""
    model = tiny_latte(PLAIN, awake=True, positions="rope", attention=attention)
    streams = model.layout.pack(random_latents(PLAIN, 1))
    time, label = torch.tensor([100.0]), torch.tensor([1])
    for dims in ((2,), (3, 4)):
        flipped = {name: torch.roll(x, [2] * len(dims), dims) for name, x in streams.items()}
        with torch.no_grad():
            there, back = model(flipped, time, label)["video"], model(streams, time, label)["video"]
            moved = torch.roll(back, [2] * len(dims), dims)
            assert (there - moved).abs().max() > 1e-3
            model.rotation[0], model.rotation[1] = 1.0, 0.0
            torch.testing.assert_close(
                model(flipped, time, label)["video"],
                torch.roll(model(streams, time, label)["video"], [2] * len(dims), dims),
            )
        model = tiny_latte(PLAIN, awake=True, positions="rope", attention=attention)


def test_the_keyframe_and_the_parts_that_follow_it_are_rotated_by_their_latent_times():
    model = tiny_latte(layout="tokens", positions="rope")  # keyframe at 0, motion and residual at 1 to 4
    expected = rotation_angles(torch.tensor([0, 1, 2, 3, 4, 1, 2, 3, 4]), 2, 2, 8)
    torch.testing.assert_close(model.rotation, cos_sin(expected))
    shapes = {"keyframe": DECOUPLED["keyframe"]}
    rotation = model.first_frames(model.rotation, {"keyframe": 1, "residual": 2}, dim=1)
    torch.testing.assert_close(rotation_along("both", rotation), cos_sin(expected[[0, 5, 6]]).flatten(1, 2))
    torch.testing.assert_close(rotation_along("time", rotation), cos_sin(expected[[0, 5, 6], 0]))
    torch.testing.assert_close(rotation_along("space", rotation), cos_sin(expected[0]))
    torch.testing.assert_close(tiny_latte(shapes, positions="rope").rotation, cos_sin(expected[:1]))


@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (1, 3), (2, 3)], ids=str)
def test_modulated_norm_follows_the_formula(rows):
    """One row for all tokens takes another way through the library than rows of samples or frames."""
    torch.manual_seed(0)
    x = torch.randn(rows[0], 3, 5, 8, dtype=torch.float64, requires_grad=True)
    shift, scale = (torch.randn(*rows, 1, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    normal = (x - x.mean(3, keepdim=True)) / (x.var(3, keepdim=True, unbiased=False) + 1e-6).sqrt()
    expected = normal * (1 + scale) + shift
    actual = ModulatedNorm(8)(x, shift, scale)
    torch.testing.assert_close(actual, expected)
    inputs, seed = (x, shift, scale), torch.randn_like(x)
    for ours, theirs in zip(*(torch.autograd.grad(y, inputs, seed) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gated_mlp_follows_the_formula():
    torch.manual_seed(0)
    mlp = build_mlp("swiglu", 16, 3.0)  # 48 * 2 / 3
    x = torch.randn(2, 3, 5, 16)
    gate, value = mlp.fc1(x).split([32, 32], dim=-1)
    torch.testing.assert_close(mlp(x), mlp.fc2(silu(gate) * value))


@pytest.mark.parametrize("size", SIZES)
def test_gated_mlp_has_the_parameters_of_the_plain_one(size):
    width = SIZES[size][1]
    with torch.device("meta"):
        counts = {kind: sum(p.numel() for p in build_mlp(kind, width, 4.0).parameters()) for kind in ("gelu", "swiglu")}
        hidden = build_mlp("swiglu", width, 4.0).fc2.in_features
    assert counts["swiglu"] == pytest.approx(counts["gelu"], rel=0.01)
    assert hidden % 64 == 0


def test_heads_of_64_channels_take_as_many_parameters():
    parts = {"video": {"shape": (16, 5, 32, 32), "mean": [0.0] * 16, "std": [1.0] * 16}}
    counts = {}
    for heads, head_size in ((0, 72), (16, 72), (18, 64)):
        with torch.device("meta"):
            model = Latte(**build_records(LatteConfig(size="XL/2", heads=heads), parts, []))
        assert model.architecture.dimensions()[1] // model.blocks[0].attention.heads == head_size
        counts[heads] = sum(parameter.numel() for parameter in model.parameters())
    assert len(set(counts.values())) == 1
