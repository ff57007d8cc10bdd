"""Protocols define the clips, the codecs and the counts; deviations are explicit and recorded."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from einops import reduce

from pipelines.metrics.codec_round_trip import RESIZES, codec_round_trip, resize_and_crop
from pipelines.metrics.frame_quality import psnr
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.fvd_protocols import (
    PROTOCOLS,
    EvaluateConfig,
    FvdProtocol,
    feature_statistics,
    find_protocol,
    frechet_video_distance,
    real_frame_indices,
    select_real_clips,
)
from pipelines.metrics.i3d_weights import FeatureExtractor, calibration_clips, load_i3d


def smooth_clips(seed: int, num_clips: int, num_frames: int = 9, size: int = 32) -> torch.Tensor:
    video = calibration_clips(num_clips, torch.Generator().manual_seed(seed))[:, :, :num_frames, :size, :size]
    return (video.movedim(1, -1) * 127.5 + 127.5).to(torch.uint8).contiguous()


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    return load_i3d(tmp_path_factory.mktemp("no_weights"), precision="bf16", batch_size=2)


TINY = replace(PROTOCOLS["fvd16-strict"], name="tiny", num_frames=9, num_clips=2, num_sets=1)


def test_named_protocols_state_what_defines_a_number() -> None:
    assert EvaluateConfig().protocol in PROTOCOLS
    assert [find_protocol(name).num_clips for name in PROTOCOLS] == [2048] * 3
    assert find_protocol("fvd16-strict").num_sets == 5 and not find_protocol("fvd16-strict").fake_codecs
    assert find_protocol("fvd16-latte").fake_codecs == ("h264", "jpeg75")
    assert find_protocol("fvd16-stylegan-v").real_selection == "sorted"
    with pytest.raises(ValueError, match="fvd16-strict, fvd16-stylegan-v, fvd16-latte, got 'fvd'"):
        find_protocol("fvd")


@pytest.mark.parametrize("schema", [FvdProtocol, EvaluateConfig])
def test_every_field_has_its_meaning_on_its_line(schema: type) -> None:
    import pipelines.metrics.fvd_protocols as module

    lines = Path(module.__file__).read_text().splitlines()
    for field in fields(schema):
        assert any(line.startswith(f"    {field.name}: ") and "  # " in line for line in lines), field.name


def test_real_clips_are_a_seeded_draw_without_repetition_or_the_sorted_first() -> None:
    strict, sorted_first = PROTOCOLS["fvd16-strict"], PROTOCOLS["fvd16-stylegan-v"]
    drawn = select_real_clips(strict, 50, 20, seed=1)
    assert drawn == select_real_clips(strict, 50, 20, seed=1) != select_real_clips(strict, 50, 20, seed=2)
    assert len(set(drawn)) == 20 and set(drawn) <= set(range(50))
    assert select_real_clips(sorted_first, 50, 20, seed=1) == list(range(20))
    with pytest.raises(ValueError, match="evaluate.num_real=50"):
        select_real_clips(strict, 50, 2048, seed=1)


def test_real_frames_follow_stride_and_stay_in_the_file() -> None:
    strict, latte = PROTOCOLS["fvd16-strict"], PROTOCOLS["fvd16-latte"]
    starts = set()
    for position in range(40):
        frames = real_frame_indices(latte, 50, training_stride=1, position=position, seed=0)
        assert [b - a for a, b in zip(frames, frames[1:], strict=False)] == [3] * 15 and frames[-1] < 50
        starts.add(frames[0])
    assert starts == {0, 1, 2, 3, 4}
    assert real_frame_indices(latte, 45, 1, 0, 0) == []  # 46 frames are needed
    assert real_frame_indices(strict, 31, 2, 0, 0) == list(range(0, 31, 2))  # stride of the training
    assert real_frame_indices(replace(strict, real_start="first"), 99, 1, 7, 0) == list(range(16))


@pytest.mark.parametrize(("codecs", "decibel"), [(("jpeg75",), 28), (("h264",), 32), (("h264", "jpeg75"), 27)])
def test_codecs_change_a_little_and_keep_the_shape(codecs: tuple[str, ...], decibel: float) -> None:
    clips = smooth_clips(0, 2, num_frames=5, size=48)
    coded = codec_round_trip(clips, codecs)
    assert coded.shape == clips.shape and coded.dtype == torch.uint8
    assert (psnr(coded, clips) > decibel).all() and (psnr(coded, clips) < 60).all()


def test_no_codec_is_lossless_and_unknown_or_odd_is_refused() -> None:
    clips = smooth_clips(1, 1, num_frames=2, size=17)
    assert torch.equal(codec_round_trip(clips, ()), clips)
    with pytest.raises(ValueError, match="jpeg75, h264"):
        codec_round_trip(clips, ("png",))
    with pytest.raises(ValueError, match="even height and width"):
        codec_round_trip(clips, ("h264",))


@pytest.mark.parametrize("resize", RESIZES)
def test_resize_keeps_the_centre_square(resize: str) -> None:
    clip = smooth_clips(2, 1, num_frames=2, size=96)[0, :, :64]  # (2, 64, 96, 3)
    resized = resize_and_crop(clip, 32, resize)
    assert resized.shape == (2, 32, 32, 3) and resized.dtype == torch.uint8
    square = reduce(clip[:, :, 16:80].float(), "t (h a) (w b) c -> t h w c", "mean", a=2, b=2)
    assert psnr(resized[None], square.round().to(torch.uint8)[None]).item() > 27
    assert resize_and_crop(clip[:, :, :64], 64, resize).sub(clip[:, :, :64].int()).abs().max() == 0
    with pytest.raises(ValueError, match="lanczos"):
        resize_and_crop(clip, 32, "nearest")


def test_result_holds_all_that_defines_it(extractor: FeatureExtractor) -> None:
    real, fake = smooth_clips(3, 3), smooth_clips(4, 4).flip(2) // 2
    result = frechet_video_distance(real, [fake[:2], fake[2:]], extractor, TINY, num_sets=2, seeds=[7, 8])
    assert json.loads(json.dumps(result))["protocol"]["name"] == "tiny"
    assert result["name"] == "proxy_fvd9" and result["weights_hash"].startswith("random-")
    assert (result["num_real"], result["num_fake"], result["num_sets"]) == (2, 2, 2)
    assert result["seeds"] == [7, 8] and result["complete"] is False and result["precision"] == "bf16"
    assert result["value"] == pytest.approx(sum(result["values"]) / 2) and result["std"] > 0
    whole = [FeatureStatistics.of(extractor.features(clips)) for clips in (real[:2], fake[:2], fake[2:])]
    expected = [frechet_distance(whole[0], statistics) for statistics in whole[1:]]
    assert result["values"] == pytest.approx(expected, rel=1e-3)


def test_equal_clips_have_distance_zero_and_streams_equal_tensors(extractor: FeatureExtractor) -> None:
    real = smooth_clips(5, 3)
    protocol = replace(TINY, num_clips=3)
    streamed = feature_statistics(iter(real.split(2)), extractor, 9, ())
    assert streamed.num_samples == 3
    result = frechet_video_distance(real, [iter(real.split(2))], extractor, protocol)
    assert result["value"] < 1e-6 * streamed.covariance(unbiased=False).trace().item()
    assert asdict(protocol) == result["protocol"] and result["std"] is None


def test_missing_clips_sets_or_frames_are_refused(extractor: FeatureExtractor) -> None:
    clips = smooth_clips(6, 2)
    with pytest.raises(ValueError, match="wants 2048 real clips, got 2.*evaluate.num_real=2"):
        frechet_video_distance(clips, [clips], extractor, replace(TINY, num_clips=2048))
    with pytest.raises(ValueError, match="wants 2 fake clips, got 1.*evaluate.num_fake=1"):
        frechet_video_distance(clips, [clips[:1]], extractor, TINY)
    with pytest.raises(ValueError, match="wants 5 sets of samples, got 1"):
        frechet_video_distance(clips, [clips], extractor, replace(TINY, num_sets=5))
    with pytest.raises(ValueError, match="scores 16 frames, got clips of 9"):
        frechet_video_distance(clips, [clips], extractor, replace(TINY, num_frames=16))
