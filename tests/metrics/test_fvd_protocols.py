"""Protocols define the clips, the codecs and the counts; deviations are explicit and recorded."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from einops import reduce

from pipelines.inputs.options.evaluate import EvaluateSection
from pipelines.metrics.codec_round_trip import RESIZES, codec_round_trip, resize_and_crop
from pipelines.metrics.frame_quality import psnr
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.fvd import clip_features, fvd_record, stream_statistics
from pipelines.metrics.fvd_protocols import (
    PROTOCOLS,
    FvdProtocol,
    class_quotas,
    codecs_left,
    deviations,
    draw_sets,
    find_protocol,
    floor_halves,
    real_frame_indices,
    score_id,
    select_real_clips,
)
from pipelines.metrics.i3d_weights import BN_EPS, FeatureExtractor, calibration_clips, load_i3d, weights_word
from pipelines.metrics.weight_files import KNOWN_CONTENT


def smooth_clips(seed: int, num_clips: int, num_frames: int = 9, size: int = 32) -> torch.Tensor:
    video = calibration_clips(num_clips, torch.Generator().manual_seed(seed))[:, :, :num_frames, :size, :size]
    return (video.movedim(1, -1) * 127.5 + 127.5).to(torch.uint8).contiguous()


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    return load_i3d(tmp_path_factory.mktemp("no_weights"), precision="bf16", batch_size=2)


TINY = replace(PROTOCOLS["fvd16-strict"], name="tiny", num_frames=9, num_clips=2, num_sets=1)


def test_named_protocols_state_what_defines_a_number() -> None:
    assert EvaluateSection().protocol in PROTOCOLS
    assert [find_protocol(name).num_clips for name in PROTOCOLS] == [2048] * 4
    strict, stylegan_v, latte, videogpt = PROTOCOLS.values()
    assert strict.num_sets == 5 and not strict.fake_codecs and strict.needs_lossless and strict.floor
    assert strict.class_prior == "empirical" and strict.real_split == "train"
    assert (latte.real_codecs, latte.fake_codecs) == (("jpeg75",), ("h264", "jpeg75")) and latte.real_frame_stride == 3
    assert stylegan_v.real_selection == "sorted" and stylegan_v.real_split == latte.real_split == "all"
    assert videogpt.unbiased_covariance and videogpt.weights_file == "i3d_pretrained_400.pt"
    assert strict.weights_file == "i3d_kinetics400.safetensors" and {p.weights_file for p in PROTOCOLS.values()} == set(
        BN_EPS
    )
    with pytest.raises(ValueError, match="evaluate.protocol.*fvd-videogpt, got 'fvd'"):
        find_protocol("fvd")
    for wrong in ({"protocol": "fvd"}, {"num_videos": -2}, {"num_videos": 1}, {"num_sets": -1}, {"i3d_batch_size": 0}):
        with pytest.raises(ValueError, match=f"evaluate.{next(iter(wrong))}"):
            EvaluateSection(**wrong)


def word(weights_file: str) -> str:
    return weights_word(weights_file, KNOWN_CONTENT[weights_file][1] if weights_file else "random-")


def test_weights_and_what_deviates_from_a_protocol_stand_in_the_id() -> None:
    strict, videogpt = PROTOCOLS["fvd16-strict"], PROTOCOLS["fvd-videogpt"]
    ours, script, ported = "i3d_kinetics400.safetensors", "i3d_torchscript.pt", "i3d_pretrained_400.pt"
    as_said = (2048, 5, "", False, "fp32", ours)
    assert deviations(strict, *as_said) == []
    cases = {
        "fvd16-strict-i3d-0dd31a0d": as_said,
        "fvd16-strict-i3d-0dd31a0d-lossy": (2048, 5, "h264", False, "fp32", ours),
        "fvd16-strict-i3d-0dd31a0d-n256-sets1": (256, 1, "", False, "fp32", ours),
        "fvd16-strict-i3d-0dd31a0d-own-classes-bf16": (2048, 5, "", True, "bf16", ours),
        "fvd16-strict-i3d_pretrained_400-other-weights": (2048, 5, "", False, "fp32", ported),
        "fvd16-strict-i3d_torchscript-n256-other-weights": (256, 5, "", False, "fp32", script),
        "proxy_fvd16-strict": (*as_said[:-1], ""),
    }
    for expected, facts in cases.items():
        assert score_id(strict, deviations(strict, *facts), word(facts[-1])) == expected
    for protocol, file in ((videogpt, ported), (PROTOCOLS["fvd16-stylegan-v"], script)):
        found = {weights: deviations(protocol, 2048, 1, "", False, "fp32", weights) for weights in (file, ours)}
        assert found == {file: [], ours: ["other-weights"]}
        assert score_id(protocol, [], word(file)) == protocol.name, "published scores are those of the named file"
        assert score_id(protocol, found[ours], word(ours)) == f"{protocol.name}-i3d-0dd31a0d-other-weights"
    assert deviations(videogpt, 2048, 1, "h264", False, "fp32", ported) == ["h264"]
    for codec, words in (("h264", []), ("jpeg75", []), ("jpeg", ["jpeg"]), ("mpeg4", ["mpeg4"])):
        assert deviations(PROTOCOLS["fvd16-latte"], 2048, 1, codec, False, "fp32", "i3d_torchscript.pt") == words


def test_a_codec_is_not_applied_twice() -> None:
    latte = PROTOCOLS["fvd16-latte"].fake_codecs
    assert codecs_left(latte, "") == ("h264", "jpeg75") and codecs_left(latte, "h264") == ("jpeg75",)
    assert codecs_left(latte, "mpeg4") == latte and codecs_left(latte, "jpeg75") == ()
    assert codecs_left(("jpeg75",), "h264") == ("jpeg75",) and codecs_left((), "gif") == ()


def test_every_field_has_its_meaning_on_its_line() -> None:
    import pipelines.metrics.fvd_protocols as module

    lines = Path(module.__file__).read_text().splitlines()
    for field in fields(FvdProtocol):
        assert any(line.startswith(f"    {field.name}: ") and "  # " in line for line in lines), field.name


def test_real_clips_are_a_seeded_draw_without_repetition_or_the_sorted_first() -> None:
    strict, sorted_first = PROTOCOLS["fvd16-strict"], PROTOCOLS["fvd16-stylegan-v"]
    drawn = select_real_clips(strict, 50, 20, seed=1)
    assert drawn == select_real_clips(strict, 50, 20, seed=1) != select_real_clips(strict, 50, 20, seed=2)
    assert len(set(drawn)) == 20 and set(drawn) <= set(range(50))
    assert select_real_clips(sorted_first, 50, 20, seed=1) == list(range(20))
    with pytest.raises(ValueError, match="2048 .*50 .*evaluate.num_videos=50"):
        select_real_clips(strict, 50, 2048, seed=1)


@pytest.mark.parametrize(("available", "wanted", "size"), [(50, 20, 20), (50, 40, 25), (41, 41, 20), (4, 2, 2)])
def test_the_floor_compares_disjoint_clips_and_reuses_the_scored_ones(available: int, wanted: int, size: int) -> None:
    first, second = floor_halves(available, wanted, seed=1)
    assert len(first) == len(second) == size == len(set(first)) == len(set(second)) and not set(first) & set(second)
    scored = select_real_clips(PROTOCOLS["fvd16-strict"], available, wanted, seed=1)
    assert scored[:size] == first[: len(scored)]


def test_quotas_follow_the_real_classes() -> None:
    assert class_quotas({0: 30, 1: 10}, 8) == {0: 6, 1: 2}
    assert class_quotas({0: 1, 1: 1, 2: 1}, 4) == {0: 2, 1: 1, 2: 1}
    counts = {label: 101 + 7 * label for label in range(101)}
    quotas = class_quotas(counts, 2048)
    assert sum(quotas.values()) == 2048
    assert all(abs(quotas[label] - 2048 * count / sum(counts.values())) < 1 for label, count in counts.items())


def test_sets_are_disjoint_draws_with_the_real_classes() -> None:
    labels, counts = [0] * 12 + [1] * 12 + [2] * 12, {0: 30, 1: 10, 2: 20}
    sets, as_reality = draw_sets(labels, 6, 3, seed=4, real_counts=counts)
    assert as_reality and len({position for chosen in sets for position in chosen}) == 18
    for chosen in sets:
        assert [sum(labels[p] == label for p in chosen) for label in range(3)] == [3, 1, 2]
    assert sets == draw_sets(labels, 6, 3, 4, counts)[0] != draw_sets(labels, 6, 3, 5, counts)[0]
    taken, as_reality = draw_sets(labels, 18, 2, seed=4, real_counts={0: 1, 1: 1, 3: 1})
    assert not as_reality and sorted(taken[0] + taken[1]) == list(range(36)), "a class is missing: as they come"
    assert draw_sets([-1] * 5, 5, 1, 0, None)[1] is False
    with pytest.raises(ValueError, match="5 set.*8 generated .*36"):
        draw_sets(labels, 8, 5, 0, None)


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


def test_the_record_holds_all_that_defines_it(extractor: FeatureExtractor) -> None:
    real, fake = smooth_clips(3, 2), smooth_clips(4, 4).flip(2) // 2
    features = [clip_features(clips, extractor, TINY, ()) for clips in (real, fake[:2], fake[2:])]
    record = fvd_record(features[0], features[1:], extractor, TINY, floor=(features[0], features[0]), codec="gif")
    assert json.loads(json.dumps(record))["protocol"]["name"] == "tiny"
    assert record["name"] == "proxy_fvd9" and record["weights_hash"].startswith("random-")
    assert record["id"] == "proxy_tiny-lossy-sets2-bf16" and record["complete"] is False
    assert (record["num_videos"], record["num_real"], record["num_fake"], record["num_sets"]) == (2, 2, 2, 2)
    assert record["value"] == pytest.approx(sum(record["values"]) / 2) and record["std"] > 0
    assert record["floor"]["num_videos"] == 2 and record["floor"]["value"] < 1e-6 * record["value"]
    assert len(record["kernel_distance"]["values"]) == 2
    whole = [FeatureStatistics.of(part) for part in features]
    expected = [frechet_distance(whole[0], statistics) for statistics in whole[1:]]
    assert record["values"] == pytest.approx(expected, rel=1e-9)
    unbiased = fvd_record(features[0], features[1:], extractor, replace(TINY, unbiased_covariance=True))
    assert unbiased["values"] == pytest.approx(
        [frechet_distance(whole[0], statistics, unbiased=True) for statistics in whole[1:]], rel=1e-9
    )


def test_only_as_many_frames_as_the_protocol_scores_count(extractor: FeatureExtractor) -> None:
    clips = smooth_clips(5, 1, num_frames=10)
    other = clips.clone()
    other[:, 9] = 0
    assert torch.equal(clip_features(clips, extractor, TINY, ()), clip_features(other, extractor, TINY, ()))
    with pytest.raises(ValueError, match="fvd16-strict .*16 .*10"):
        clip_features(clips, extractor, PROTOCOLS["fvd16-strict"], ())


def test_statistics_in_chunks_equal_those_of_the_whole() -> None:
    features = torch.randn(700, 20, generator=torch.Generator().manual_seed(8), dtype=torch.float64) + 30
    whole, streamed = FeatureStatistics.of(features), stream_statistics(features)
    torch.testing.assert_close(streamed.covariance(True), whole.covariance(True), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(streamed.mean, whole.mean, rtol=1e-13, atol=0)
