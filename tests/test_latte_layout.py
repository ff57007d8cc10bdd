"""Latent layouts: unpack is the inverse of pack, shapes and times are right, impossible parts are refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_latte import DECOUPLED, PLAIN, random_latents

from latte.latent_layout import LatentLayout

small = st.integers(1, 3)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["keyframe_first", "channel"]),
    channels=st.tuples(small, small, small),
    frames=st.integers(0, 4),
    keyframe_repeated=st.booleans(),
    side=small,
    batch=st.integers(0, 2),
)
def test_unpack_inverts_pack(name, channels, frames, keyframe_repeated, side, batch):
    first = frames + 1 if keyframe_repeated else 1
    shapes = {
        part: (c, t, side, side)
        for part, c, t in zip(("keyframe", "motion", "residual"), channels, (first, frames, frames), strict=True)
    }
    layout = LatentLayout.build(name, shapes)
    latents = random_latents(shapes, batch)
    streams = layout.pack(latents)
    assert {s.name: (batch, s.channels, s.frames, s.height, s.width) for s in layout.streams} == {
        stream: tuple(x.shape) for stream, x in streams.items()
    }
    back = layout.unpack(streams)
    assert list(back) == list(latents)
    assert all(torch.equal(back[part], latents[part]) for part in latents)


@pytest.mark.parametrize("name", ["keyframe_first", "channel"])
def test_a_single_part_is_one_stream(name):
    layout = LatentLayout.build(name, PLAIN)
    assert [(s.name, s.channels, s.frames, s.first_time) for s in layout.streams] == [("video", 5, 3, 0)]
    latents = random_latents(PLAIN, 2)
    assert torch.equal(layout.pack(latents)["video"], latents["video"])


def test_keyframe_first_has_the_tokens_of_a_plain_vae():
    layout = LatentLayout.build("keyframe_first", DECOUPLED)
    described = [(s.name, s.components, s.channels, s.frames, s.first_time) for s in layout.streams]
    assert described == [
        ("keyframe", ("keyframe",), 6, 1, 0),
        ("motion_residual", ("motion", "residual"), 6, 4, 1),
    ]


def test_keyframe_first_without_motion_and_with_unequal_frames():
    pair = LatentLayout.build("keyframe_first", {"keyframe": (3, 1, 2, 2), "residual": (2, 4, 2, 2)})
    assert [(s.name, s.first_time) for s in pair.streams] == [("keyframe", 0), ("residual", 1)]
    unequal = LatentLayout.build(
        "keyframe_first", {"keyframe": (3, 5, 2, 2), "motion": (1, 4, 2, 2), "residual": (2, 5, 2, 2)}
    )
    assert [(s.name, s.first_time) for s in unequal.streams] == [("keyframe", 0), ("motion", 1), ("residual", 0)]


def test_channel_repeats_the_keyframe_and_pads_the_others_in_front():
    layout = LatentLayout.build("channel", DECOUPLED)
    latents = random_latents(DECOUPLED, 2)
    stream = layout.pack(latents)["keyframe_motion_residual"]
    assert stream.shape == (2, 12, 5, 4, 4)
    keyframe, motion, residual = stream.split([6, 2, 4], dim=1)
    assert all(torch.equal(keyframe[:, :, t], latents["keyframe"][:, :, 0]) for t in range(5))
    assert not motion[:, :, 0].any() and not residual[:, :, 0].any()
    assert torch.equal(residual[:, :, 1:], latents["residual"])


def test_channel_averages_the_copies_of_the_keyframe():
    layout = LatentLayout.build("channel", DECOUPLED)
    stream = torch.randn(2, 12, 5, 4, 4)
    mean = stream[:, :6].mean(dim=2, keepdim=True)
    torch.testing.assert_close(layout.unpack({"keyframe_motion_residual": stream})["keyframe"], mean)


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("tokens", DECOUPLED, "latte.layout"),
        ("channel", {}, "no latent part"),
        ("channel", {"video": (4, 0, 2, 2)}, "no latent part"),
        ("channel", {"a": (4, 1, 2, 2), "b": (4, 1, 4, 4)}, "height and width"),
        ("channel", {"a": (4, 2, 2, 2), "b": (4, 5, 2, 2)}, "cannot place part 'a'"),
        ("channel", {"keyframe": (4, 3, 2, 2), "motion": (4, 5, 2, 2)}, "keyframe of 1 or 5"),
        ("keyframe_first", {"structure": (4, 2, 2, 2), "dynamics": (4, 2, 2, 2)}, "called keyframe"),
    ],
)
def test_impossible_parts_are_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        LatentLayout.build(name, parts)
