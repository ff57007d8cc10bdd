"""Whole videos piece by piece: equal to the whole, any length and size, GOPs that stand alone, in constant memory."""

import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vae import CAUSAL, VARIANTS, clip, tiny_vae
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vae.keyframe_placement import GopConfig, split_gops
from vae.streaming import component_stream, decode_stream, encode_stream, latent_values, rechunk

all_variants = pytest.mark.parametrize("variant", VARIANTS)
causal_variants = pytest.mark.parametrize("variant", CAUSAL)


def joined(parts):
    return torch.cat(list(parts), dim=2)


def joined_latents(pieces):
    """{part: latent of the whole}: the keyframe is in the first piece only."""
    pieces = list(pieces)
    return {name: joined(p.latents[name] for p in pieces if name in p.latents) for name in pieces[0].latents}


def gop_starts(model, parts, gop):
    """Frame numbers of the keyframes, and the sizes of the pieces."""
    pieces = list(split_gops(model, parts, gop))
    assert sum(piece.shape[2] for _, piece in pieces) == sum(part.shape[2] for part in parts)
    return sorted({start for start, _ in pieces})


# ---------------------------------------------------------------------- pieces of frames


@pytest.mark.parametrize("lengths", [(16, 16, 1), (5, 3, 4), (1, 4, 6, 4)])
def test_a_chunk_that_ends_within_a_latent_frame_must_be_the_last(lengths):
    model, video = tiny_vae("default").eval(), clip(1, sum(lengths), 16, 16)
    for code in (model.encode_chunks, model.component_chunks):
        with pytest.raises(ValueError, match=r"chunk \d .*\d+ frames.*rechunk"):
            list(code(video.split(lengths, dim=2)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.sampled_from([4, 8, 12]))
def test_rechunked_frames_are_the_same_frames(sizes, chunk_frames):
    video = torch.arange(sum(sizes)).reshape(1, 1, -1, 1, 1)
    chunks = list(rechunk(video.split(sizes, dim=2), chunk_frames))
    lengths = [chunk.shape[2] for chunk in chunks]
    assert sum(sizes) == 0 or torch.equal(joined(chunks), video)
    assert lengths[:1] in ([], [min(1 + chunk_frames, sum(sizes))])
    assert all(length == chunk_frames for length in lengths[1:-1])
    assert all(0 < length <= 1 + chunk_frames for length in lengths)


@pytest.mark.parametrize("chunk_frames", [0, 2, 17, -4])
def test_chunks_that_would_cut_a_latent_frame_are_refused(chunk_frames):
    with pytest.raises(ValueError, match=f"chunk_frames is {chunk_frames}.*4"):
        next(rechunk([clip()], chunk_frames))


# ---------------------------------------------------------------------- chunks equal the whole

# Every way to cut 13 frames into 1 + 4n, then 4n frames.
ALL_CUTS = [
    [first, *rest]
    for first in (1, 5, 9, 13)
    for count in range(4)
    for rest in itertools.product((4, 8, 12), repeat=count)
    if first + sum(rest) == 13
]


@causal_variants
@pytest.mark.parametrize(
    ("dtype", "tolerance", "cuts"), [("float64", 1e-10, ALL_CUTS), ("float32", 1e-4, ALL_CUTS[:1])]
)
@torch.no_grad()
def test_every_way_to_cut_equals_the_whole(variant, dtype, tolerance, cuts):
    """In a closed loop the residual's chunks need the past of the decoder as well."""
    dtype = getattr(torch, dtype)
    model, video = tiny_vae(variant).to(dtype), clip(1, 13, 16, 24).to(dtype)
    whole = model.encode(video)
    decoded, components = model.decode(whole.latents), model.decode_components(video)
    assert len(ALL_CUTS) == 8
    for sizes in cuts:
        encodings = list(model.encode_chunks(video.split(sizes, dim=2)))
        for part, latent in whole.latents.items():
            chunked = joined(e.latents[part] for e in encodings if part in e.latents)
            torch.testing.assert_close(chunked, latent, atol=tolerance, rtol=0)
            chunked = joined(e.posterior[part].log_variance for e in encodings if part in e.posterior)
            torch.testing.assert_close(chunked, whole.posterior[part].log_variance, atol=tolerance, rtol=0)
        chunked = joined(model.decode_chunks(e.latents for e in encodings))
        torch.testing.assert_close(chunked, decoded, atol=tolerance, rtol=0)
    shown = list(model.component_chunks(video.split(sizes, dim=2)))
    for name, component in components.items():
        torch.testing.assert_close(joined(x[name] for x in shown), component, atol=tolerance, rtol=0)


@all_variants
@pytest.mark.parametrize(("num_frames", "height", "width"), [(1, 16, 24), (8, 17, 20), (23, 9, 15)])
@torch.no_grad()
def test_streams_of_any_length_and_size_equal_the_whole(variant, num_frames, height, width):
    model, video = tiny_vae(variant).double(), clip(1, num_frames, height, width).double()
    parts = video.split([min(3, num_frames), max(num_frames - 3, 0)], dim=2)
    gop = GopConfig(max_frames=0 if model.causal else num_frames)
    pieces = list(encode_stream(model, parts, gop, chunk_frames=8))
    whole = model.encode(video)
    for part, latent in joined_latents(pieces).items():
        torch.testing.assert_close(latent, whole.latents[part], atol=1e-10, rtol=0)
    decoded = joined(decode_stream(model, pieces))
    assert decoded.shape == video.shape
    torch.testing.assert_close(decoded, model.decode(whole.latents, whole.clip_shape), atol=1e-10, rtol=0)
    shown = list(component_stream(model, parts, gop, chunk_frames=8))
    assert torch.equal(joined(piece.components["original"] for piece in shown), video)
    for name, component in model.decode_components(video).items():
        torch.testing.assert_close(joined(p.components[name] for p in shown), component, atol=1e-10, rtol=0)
    assert [piece.start for piece in shown] == [piece.start for piece in pieces]


@all_variants
@torch.no_grad()
def test_single_images_are_coded_alone(variant):
    """A batch of images equals each of them, and the first frame of a clip where the keyframe is one image."""
    model, images = tiny_vae(variant), clip(3, 1, 32, 40)
    together = model.decode(model.encode(images).latents)
    assert together.shape == images.shape
    for image, alone in zip(images.split(1), together.split(1), strict=True):
        torch.testing.assert_close(model.decode(model.encode(image).latents), alone, atol=1e-4, rtol=0)
    if model.causal:
        clips = clip(3, 5, 32, 40)
        first = model.decode(model.encode(clips[:, :, :1]).latents)
        torch.testing.assert_close(model.decode(model.encode(clips).latents)[:, :, :1], first, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- groups of pictures


@pytest.mark.parametrize("variant", ["plain", "default", "no_motion", "first_frame_latent", "paper"])
@torch.no_grad()
def test_each_gop_is_coded_alone(variant):
    model, video = tiny_vae(variant), clip(2, 23, 14, 21)
    pieces = list(encode_stream(model, video.split(7, dim=2), GopConfig(max_frames=10), chunk_frames=8))
    lengths = [10, 10, 3]
    assert [piece.start for piece in pieces if piece.start == piece.gop_start] == [0, 10, 20]
    assert joined(decode_stream(model, pieces)).shape == video.shape
    for start, frames in zip((0, 10, 20), video.split(lengths, dim=2), strict=True):
        group = [piece for piece in pieces if piece.gop_start == start]
        alone = model.encode(frames)
        for part, latent in joined_latents(group).items():
            torch.testing.assert_close(latent, alone.latents[part], atol=1e-4, rtol=0)
        decoded = joined(decode_stream(model, group))  # the third, say, without the first two
        torch.testing.assert_close(decoded, model.decode(alone.latents, alone.clip_shape), atol=1e-4, rtol=0)
    values = sum(latent[0].numel() for piece in pieces for latent in piece.latents.values())
    assert values == latent_values(model, lengths, (14, 21))
    assert latent_values(model, [17, 17], (14, 21)) > latent_values(model, [33], (14, 21))


def test_a_gop_is_decoded_from_its_keyframe_on():
    model = tiny_vae("default")
    pieces = list(encode_stream(model, [clip(1, 17)], chunk_frames=8))
    assert len(list(decode_stream(model, pieces[:1]))) == 1
    with pytest.raises(ValueError, match="lack frame 0.*keyframe"):
        list(decode_stream(model, pieces[1:]))


def test_what_is_not_causal_is_cut_into_whole_gops():
    pieces = list(encode_stream(tiny_vae("paper"), clip(1, 40).split(6, dim=2)))
    assert [(piece.gop_start, piece.num_frames) for piece in pieces] == [(0, 17), (17, 17), (34, 6)]


def test_streams_build_no_graph():
    """Otherwise the pasts would keep every chunk alive."""
    model = tiny_vae("default")
    pieces = list(encode_stream(model, [clip(1, 9)], chunk_frames=4))
    assert not any(latent.requires_grad for piece in pieces for latent in piece.latents.values())
    assert not any(video.requires_grad for video in decode_stream(model, pieces))


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="gop.max_frames is -1, expected 0"):
        GopConfig(max_frames=-1)


# ---------------------------------------------------------------------- where the warp fails


@pytest.mark.parametrize("variant", ["plain", "default", "no_motion"])
@pytest.mark.parametrize("size", [5, 40])
def test_a_cut_is_found_at_its_frame(variant, size):
    """Two clips joined: one keyframe more, at the joint, however the frames arrive; none inside an ordinary clip."""
    model, gop = tiny_vae(variant), GopConfig(adaptive=True)
    one, other = clip(1, 48, 64, 64, seed=1)[:, :, :21], clip(1, 48, 64, 64, seed=2)[:, :, :11]
    assert gop_starts(model, torch.cat([one, other], dim=2).split(size, dim=2), gop) == [0, 21]
    assert gop_starts(model, one.split(size, dim=2), gop) == [0]
    pieces = encode_stream(model, [torch.cat([one, other], dim=2)], GopConfig(18, adaptive=True))
    assert [piece.start for piece in pieces if piece.start == piece.gop_start] == [0, 18, 21]


def test_flat_frames_ask_for_no_keyframes():
    """Black, black with the noise of a camera, a picture, black again: one keyframe for each change."""
    noise = torch.rand((1, 3, 12, 64, 64), generator=torch.Generator().manual_seed(0)) / 50
    black, picture = torch.full((1, 3, 12, 64, 64), -1.0), clip(1, 48, 64, 64)[:, :, :12]
    for variant in ("plain", "default"):
        parts = [black, black + noise, picture, black]
        assert gop_starts(tiny_vae(variant), parts, GopConfig(adaptive=True)) == [0, 24, 36]


def test_a_keyframe_left_behind_slowly_is_replaced():
    """No cut in a dissolve, but below `min_gain_db` its first picture is no longer worth keeping."""
    model = tiny_vae("no_motion")
    weight = torch.linspace(0, 1, 41).reshape(1, 1, -1, 1, 1)
    one, other = (clip(1, 1, 64, 64, seed=seed) for seed in (1, 2))
    dissolve = one * (1 - weight) + other * weight
    assert gop_starts(model, [dissolve], GopConfig(adaptive=True, min_gain_db=-99)) == [0]
    starts = gop_starts(model, [dissolve], GopConfig(adaptive=True, min_gain_db=3))
    assert 2 <= len(starts) <= 4


def test_adaptive_keyframes_need_one_video_at_a_time():
    with pytest.raises(ValueError, match="one video.*2"):
        next(encode_stream(tiny_vae("plain"), [clip(2)], GopConfig(adaptive=True)))


def test_cuts_between_real_clips_are_found(real_clips):
    """Joined at frame 9; the two are recorded in other places."""
    from pipelines.data.video_file import read_video, to_float

    names = ("ucf101/Basketball/v_Basketball_g01_c01.avi", "ucf101/Biking/v_Biking_g01_c03.avi")
    one, other = (to_float(read_video(real_clips / name, range(12)))[None] for name in names)
    for variant in ("plain", "default"):
        model = tiny_vae(variant)
        parts = torch.cat([one[:, :, :9], other], dim=2).split(4, dim=2)
        assert gop_starts(model, parts, GopConfig(adaptive=True)) == [0, 9]


# ---------------------------------------------------------------------- memory and tiles


class PeakOfTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still alive."""

    def __init__(self):
        super().__init__()
        self.users, self.live, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._use(storage.data_ptr(), storage.nbytes(), tensor)
        return result

    def _use(self, key, size, tensor):
        if key not in self.users:
            self.users[key] = 0
            self.live += size
            self.peak = max(self.peak, self.live)
        self.users[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key, size):
        self.users[key] -= 1
        if not self.users[key]:
            del self.users[key]
            self.live -= size


def test_memory_does_not_grow_with_the_length():
    """257 frames need at most 1.3 times what 33 do, coded and shown chunk by chunk; the output is dropped."""
    model, frame = tiny_vae("default"), clip(1, 1, 16, 16)

    def peaks(num_frames):
        with PeakOfTensors() as coding:
            pieces = encode_stream(model, itertools.repeat(frame, num_frames))
            assert sum(video.shape[2] for video in decode_stream(model, pieces)) == num_frames
        with PeakOfTensors() as showing:
            pieces = component_stream(model, itertools.repeat(frame, num_frames))
            assert sum(piece.components["original"].shape[2] for piece in pieces) == num_frames
        return coding.peak, showing.peak

    for long, short in zip(peaks(257), peaks(33), strict=True):
        assert 0 < long <= 1.3 * short


@pytest.mark.parametrize("variant", ["plain", "default", "first_frame_latent", "paper"])
@torch.no_grad()
def test_tiles_of_a_stream_equal_tiles_of_the_whole(variant):
    """Each tile keeps its own past."""
    model, video = tiny_vae(variant).double(), clip(1, 9, 32, 48).double()
    model.enable_tiling(32, 16)
    whole = model.reconstruct(video)
    if model.causal:
        pieces = encode_stream(model, [video], chunk_frames=4)
        torch.testing.assert_close(joined(decode_stream(model, pieces)).clamp(-1, 1), whole, atol=1e-10, rtol=0)
    model.disable_tiling()
    assert not torch.equal(model.reconstruct(video), whole)
    model.enable_tiling(96, 16)  # larger than the frame: nothing is cut
    torch.testing.assert_close(model.reconstruct(video), model.reconstruct(video))


@all_variants
@torch.no_grad()
def test_tiles_hardly_show(variant):
    """On a smooth video the tiled result differs by little of its variance, and by less the more the tiles overlap."""
    model, video = tiny_vae(variant), clip(1, 5, 64, 112)
    untiled = model.decode(model.encode(video).latents)
    errors = []
    for overlap in (16, 48):
        model.enable_tiling(64, overlap)
        tiled = model.decode(model.encode(video).latents)
        errors.append(float((tiled - untiled).square().mean() / untiled.var()))
    # a network that looks no further than a latent's own pixels does not notice tiles
    assert errors == [0, 0] or 0 < errors[1] < errors[0] < 0.2, errors
