"""Pictures, curves and words of the report."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.data.pictures import (
    FLOW_RANGE_PIXELS,
    component_videos,
    flow_to_rgb,
    flow_wheel,
    label_rows,
    scale_to,
    tile,
    webp,
)
from pipelines.metrics.declared import declared_metrics
from pipelines.parts.report.curves import PANELS, Panel, draw_curves
from pipelines.parts.report.texts import bars, headline
from pipelines.report import as_today, differences, score_table, summarise

SCORES = {
    "reconstruction": {
        "psnr": 28.0,
        "ssim": 0.9,
        "psnr_copy_first_frame": 21.0,
        "psnr_warp_only": None,
        "psnr_warp_decoded": None,
        "clips": 12,
    },
    "generation": {
        "class_accuracy": 0.7,
        "class_accuracy_per_seed": [0.6, 0.8],
        "class_accuracy_real": 0.95,
        "class_accuracy_first_frame": 0.15,
        "diversity": 0.8,
        "proxy_fvd16": 1234.5,
        "proxy_fvd16_record": {
            "name": "proxy_fvd16",
            "value": 1234.5,
            "num_real": 48,
            "num_fake": 48,
            "num_sets": 1,
            "complete": False,
            "floor": {"value": 900.0, "num_videos": 24},
            "protocol": {"name": "fvd16-strict"},
        },
    },
}
STAGES = {
    "train_vae": {"seconds": 90.0, "peak_rss_gb": 2.5, "git_commit": "a"},
    "sample": {"seconds": 30.0, "peak_rss_gb": 1.0, "git_commit": "a"},
}


def test_the_summary_tells_what_does_not_exist_by_null() -> None:
    summary = summarise(SCORES, STAGES)
    assert summary["reconstruction"] == {
        "psnr": 28.0,
        "ssim": 0.9,
        "psnr_copy_first_frame": 21.0,
        "psnr_warp_only": None,
        "psnr_warp_decoded": None,
    }
    assert summary["generation"]["proxy_fvd16"] == 1234.5 and "fvd16" not in summary["generation"]
    assert (summary["seconds"], summary["peak_rss_gb"]) == ({"train_vae": 90.0, "sample": 30.0}, 2.5)


def test_the_headline_compares_and_names_the_proxy() -> None:
    tiles = {tile["name"]: tile for tile in headline(SCORES, STAGES, num_classes=8)}
    psnr = tiles["Reconstruction of held-out clips"]
    assert [(bar["label"], bar["text"]) for bar in psnr["bars"]] == [
        ("reconstruction", "28.0"),
        ("first frame copied", "21.0"),
    ]
    accuracy = tiles["Class accuracy of generated videos"]
    assert [bar["text"] for bar in accuracy["bars"]] == ["0.700", "0.950", "0.150", "0.125"]
    assert (
        "Fréchet video distance, proxy" in tiles and "random weights" in tiles["Fréchet video distance, proxy"]["note"]
    )
    assert [bar["text"] for bar in tiles["Fréchet video distance, proxy"]["bars"]] == ["1234", "900"]
    assert tiles["Whole chain"]["value"] == "2.0" and "2.5 GB" in tiles["Whole chain"]["note"]

    real = json.loads(json.dumps(SCORES))
    record = real["generation"].pop("proxy_fvd16_record") | {"name": "fvd16", "complete": True}
    real["generation"] = {"diversity": 0.8, "fvd16": 200.0, "fvd16_record": record | {"value": 200.0}}
    names = [tile["name"] for tile in headline(real, STAGES, num_classes=0)]
    assert "Fréchet video distance" in names and not any("accuracy" in name for name in names)


def test_bars_are_in_proportion() -> None:
    assert [bar["percent"] for bar in bars([("a", 5.0), ("b", None), ("c", 10.0), ("d", -1.0)], ".1f")] == [50, 100, 0]
    assert [bar["percent"] for bar in bars([("a", 0.0)], ".1f")] == [0]


def test_every_score_in_the_table_is_explained() -> None:
    table = {row["name"]: row for row in score_table(SCORES)}
    assert "psnr_warp_only" not in table, "a score that does not exist has no row"
    assert table["class_accuracy"]["value"] == "0.7 (0.6 – 0.8)"
    assert all(row["meaning"] == declared_metrics()[row["name"]].meaning != "" for row in table.values())
    assert table["proxy_fvd16"]["meaning"].startswith("PROXY")


def test_differences_name_every_option() -> None:
    made = {"vae": {"loop": {"steps": 3, "lr": 0.1}, "name": "a"}, "data": {"root": ""}}
    wanted = {"vae": {"loop": {"steps": 4, "lr": 0.1}, "name": "a", "fresh": 1}, "data": {"root": ""}}
    assert differences(made, wanted) == ["vae.fresh (was None, now 1)", "vae.loop.steps (was 3, now 4)"]
    assert differences(made, made) == []


def test_the_wheel_is_the_legend_of_the_flow() -> None:
    wheel = flow_wheel(65)
    assert (wheel[0, 0] == 255).all() and (wheel[32, 32] == 255).all(), "white outside and where nothing moves"
    for flow, (row, column) in {(1.0, 0.0): (32, 48), (-1.0, 0.0): (32, 16), (0.0, 1.0): (48, 32)}.items():
        motion = torch.zeros(3, 1, 1, 1)
        motion[0], motion[1] = (direction * FLOW_RANGE_PIXELS / 2 for direction in flow)
        assert (flow_to_rgb(motion)[0, 0, 0].int() - wheel[row, column].int()).abs().max() <= 2, flow


def test_components_without_motion_show_original_and_reconstruction() -> None:
    video = torch.rand(3, 5, 8, 8) * 2 - 1
    shown = component_videos({"reconstruction": video.clamp(-0.5, 0.5)}, video, {})
    assert list(shown) == ["original", "reconstruction"]
    assert shown["original"].shape == (5, 8, 8, 3) and shown["reconstruction"].min() >= 63


def test_webp_moves_and_keeps_the_colours(make_video) -> None:
    video = scale_to(make_video(num_frames=5, height=24, width=32), 48)
    assert video.shape == (5, 48, 64, 3)
    with Image.open(io.BytesIO(webp(video, fps=8))) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (5, (64, 48), 0)
        for number in (0, 4):
            image.seek(number)
            image.load()
            assert image.info["duration"] == 125
            shown = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).reshape(48, 64, 3)
            assert (shown.float() - video[number].float()).abs().mean() < 8


def test_names_beside_rows_are_never_cut() -> None:
    grid = tile([[torch.zeros(2, 20, 20, 3, dtype=torch.uint8)]] * 2)
    name = "RotateCounterclockwiseAndAgain"
    labelled = label_rows(grid, ["", name], 20)
    margin = labelled.shape[2] - grid.shape[2]
    dark = (labelled[0, :, :margin].amin(dim=-1) < 128).any(dim=0).nonzero()
    assert dark.min() >= 2 and dark.max() < margin, "the text begins and ends inside its margin"
    assert labelled.shape[2] % 2 == 0


def test_curves_show_what_the_log_holds(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "vae/loss": 1 / step, "vae/psnr": 20.0 + step} for step in range(1, 6)]
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 5, "validation/psnr": 24.0}]))
    svg = draw_curves(log, PANELS["train_vae"])
    assert svg == draw_curves(log, PANELS["train_vae"]), "the same numbers give the same bytes"
    assert len(re.findall(r'id="axes_\d"', svg)) == 2
    assert draw_curves(log, [Panel("other", "", {"latte/loss": ""}, {})]) == ""
    assert draw_curves(tmp_path / "absent.jsonl", PANELS["train_vae"]) == ""


@pytest.mark.parametrize("stage", PANELS)
def test_every_training_stage_has_words(stage: str) -> None:
    from pipelines.parts.report.texts import CURVES

    assert CURVES[stage]


def test_settings_of_an_earlier_version_are_compared_as_today() -> None:
    made = {"latte": {"depth": 6, "part_weights": {"motion": 2.0}, "loop": {"steps": 5, "gone": 0}}}
    defaults = {"latte": {"depth": 8, "part_weights": {}, "loop": {"steps": 1, "new": 0}}}
    today = {"latte": {"depth": 6, "part_weights": {"motion": 2.0}, "loop": {"steps": 5, "new": 0}}}
    assert as_today(made, defaults) == today
