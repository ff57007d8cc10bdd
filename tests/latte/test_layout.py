"""Latent layouts: unpack is the inverse of pack, shapes and times are right, impossible parts are refused."""

from dataclasses import asdict
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_latte import DECOUPLED, PLAIN, random_latents

from latte.latent_layout import LAYOUTS, LatentLayout
from vae.deco_vae import DeCoVAE
from vae.deco_vae_config import DecoVaeConfig
from vae.interface import VideoAutoencoder
from vae.registry import MODELS

small = st.integers(1, 3)


@cache
def autoencoders() -> dict[str, VideoAutoencoder]:
    """Every autoencoder of the registry, and the variants of ours that change which latents there are."""
    with torch.device("meta"):
        models = {name: model({}) for name, model in MODELS.items()}
        for variant in ({"motion": False}, {"keyframe_mode": "repeat"}, {"first_frame_latent": True}):
            models[f"deco_vae {variant}"] = DeCoVAE(asdict(DecoVaeConfig(**variant)))
    return models


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(LAYOUTS), st.sampled_from(sorted(autoencoders())), st.integers(0, 4), st.integers(1, 2))
def test_unpack_inverts_pack_for_every_autoencoder(name, model, groups, side):
    model = autoencoders()[model]
    size = side * model.size_multiple
    layout = LatentLayout.build(name, model.latent_shapes((4 * groups + 1, size, size)))
    for own in (layout, layout.of_image()):
        latents = random_latents(own.parts, 2)
        back = own.unpack(own.pack(latents))
        assert list(back) == list(latents)
        assert all(torch.equal(back[part], latents[part]) for part in latents)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(LAYOUTS),
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_single_part_is_one_stream(name):
    layout = LatentLayout.build(name, PLAIN)
    assert [(s.name, s.channels, s.frames, s.first_time) for s in layout.streams] == [("video", 5, 3, 0)]
    latents = random_latents(PLAIN, 2)
    assert torch.equal(layout.pack(latents)["video"], latents["video"])


def test_keyframe_first_has_the_tokens_of_a_plain_vae():
    layout = LatentLayout.build("keyframe_first", DECOUPLED)
    described = [(s.name, s.parts, s.channels, s.frames, s.first_time) for s in layout.streams]
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


def test_tokens_gives_every_part_a_stream_at_its_own_times():
    layout = LatentLayout.build("tokens", DECOUPLED)
    described = [(s.name, s.channels, s.frames, s.first_time) for s in layout.streams]
    assert described == [("keyframe", 6, 1, 0), ("motion", 2, 4, 1), ("residual", 4, 4, 1)]
    foreign = LatentLayout.build("tokens", {"structure": (3, 5, 2, 2), "dynamics": (2, 2, 2, 2)})
    assert [(s.name, s.first_time) for s in foreign.streams] == [("structure", 0), ("dynamics", 3)]


def test_stream_of_every_part():
    names = {part: LatentLayout.build("keyframe_first", DECOUPLED).stream_of(part) for part in DECOUPLED}
    assert names == {"keyframe": "keyframe", "motion": "motion_residual", "residual": "motion_residual"}
    image = LatentLayout.build("tokens", {"keyframe": (6, 1, 4, 4), "motion": (2, 0, 4, 4)})
    with pytest.raises(ValueError, match="layout tokens .*'motion'"):
        image.stream_of("motion")


@pytest.mark.parametrize(
    ("name", "shapes", "streams"),
    [
        ("keyframe_first", DECOUPLED, {"keyframe": (6, 1, 0)}),
        ("tokens", DECOUPLED, {"keyframe": (6, 1, 0)}),
        ("channel", DECOUPLED, {"keyframe_motion_residual": (12, 1, 0)}),
        ("keyframe_first", PLAIN, {"video": (5, 1, 0)}),
        (
            "keyframe_first",
            {"keyframe": (6, 3, 4, 4), "motion": (2, 2, 4, 4), "residual": (4, 3, 4, 4)},
            {"keyframe": (6, 1, 0), "residual": (4, 1, 0)},
        ),
    ],
)
def test_an_image_is_what_lies_at_time_zero(name, shapes, streams):
    layout = LatentLayout.build(name, shapes)
    image = layout.of_image()
    assert {s.name: (s.channels, s.frames, s.first_time) for s in image.streams} == streams
    latents = random_latents(shapes, 2)
    parts = layout.image_parts(latents)
    assert dict(image.parts) == {part: tuple(x.shape[1:]) for part, x in parts.items()}
    packed = layout.pack(latents)
    for stream, x in image.pack(parts).items():
        assert torch.equal(x, packed[stream][:, :, :1]), "an image has the tokens that the clip has at time 0"


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
        ("sequence", DECOUPLED, "latte.layout"),
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
