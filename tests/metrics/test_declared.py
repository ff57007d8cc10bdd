"""What metrics say of themselves: complete, unique, and enough to tell which numbers may be compared."""

import pytest

from pipelines.inputs.options.evaluate import EvaluateSection
from pipelines.metrics import declared
from pipelines.metrics.declared import (
    HELD_OUT_CLIPS,
    HIGHER,
    LOWER,
    ONE,
    Metric,
    declare,
    declared_metrics,
    scores_among,
)
from pipelines.parts.report.leaderboard import TITLES
from pipelines.run.config import to_dict

OPTIONS = to_dict(EvaluateSection())


@pytest.mark.parametrize("name", declared_metrics())
def test_every_metric_is_explained_and_has_an_id(name: str) -> None:
    metric = declared_metrics()[name]
    assert metric.name == name and metric.meaning.endswith(".") and metric.table in TITLES
    assert metric.best in (HIGHER, LOWER, ONE, declared.COUNT)
    beside = {"clips": 6, "fvd16_record": {"id": "strict"}, f"{name}_record": {"id": "own"}}
    identity = metric.identity(beside, OPTIONS)
    assert identity and "{" not in identity or metric.best == declared.COUNT


def test_an_id_is_made_of_options_scores_and_records() -> None:
    metrics = declared_metrics()
    assert metrics["psnr"].identity({"clips": 6}, {}) == "all frames of 6 held-out clips"
    assert metrics["diversity"].identity({}, {"classifier_clips": 64}) == "64 held-out clips at most"
    assert metrics["kernel_distance_i3d"].identity({"fvd16_record": {"id": "strict"}}, {}) == "strict"
    with pytest.raises(ValueError, match="fvd16 has no 'id'.*another version"):
        metrics["fvd16"].identity({"fvd16_record": {"value": 1.0}}, OPTIONS)


def test_two_metrics_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "_declared", dict(declared_metrics()))
    mine = Metric("mine", "Something.", LOWER, HELD_OUT_CLIPS)
    assert declare(mine) is declare(mine)
    with pytest.raises(ValueError, match="'mine'"):
        declare(Metric("mine", "Something else.", HIGHER, HELD_OUT_CLIPS))


def test_scores_without_a_declaration_and_records_are_left_out() -> None:
    values = {"psnr": 30.0, "clips": 6, "ssim": None, "psnr_record": {"id": "x"}, "of_yore": 1.0}
    assert [(metric.name, value) for metric, value in scores_among(values)] == [("psnr", 30.0), ("clips", 6)]


def test_badness_is_smallest_for_the_best() -> None:
    for best, values in ((HIGHER, (3.0, 1.0)), (LOWER, (1.0, 3.0)), (ONE, (1.1, 0.5))):
        metric = Metric("mine", "Something.", best, HELD_OUT_CLIPS)
        assert metric.badness(values[0]) < metric.badness(values[1])
