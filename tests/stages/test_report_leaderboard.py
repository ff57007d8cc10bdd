"""Results of many runs side by side: only what may be compared shares a column, and asking for more is refused."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_latte import tiny_latte
from tiny_vae import tiny_vae

from pipelines import report
from pipelines.inputs.experiment import Experiment
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.declared import GENERATION
from pipelines.parts.evaluate.context import SampleSet
from pipelines.parts.evaluate.preview import write_preview
from pipelines.parts.report.leaderboard import badness, rank, table
from pipelines.parts.report.published import PUBLISHED
from pipelines.parts.report.results import Score, find_results
from pipelines.parts.report.sizes import parameters_of
from pipelines.run.config import load_config

ROOT = Path(__file__).resolve().parents[2]
STRICT = "fvd16-strict-n64"


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_run(root: Path, name: str, fvd: float, protocol: str = STRICT, data: str = "a" * 64, **scores: float) -> Path:
    """What the stages of a finished run leave behind, as far as the leaderboard reads it."""
    run, samples = root / name, root / name / "sample" / "guidance4-1234"
    evaluation = run / "evaluate" / "guidance4-1234-abcdef"
    generation = {
        "fvd16": fvd,
        "fvd16_record": {"id": protocol, "name": "fvd16", "value": fvd, "std": 2.5},
        "kernel_distance_i3d": 0.5,
        "class_accuracy": 0.75,
        "class_accuracy_per_seed": [0.7, 0.8],
        "class_accuracy_first_frame": 0.2,
        **scores,
    }
    reconstruction = {"psnr": 30.0, "psnr_warp_only": None, "clips": 16}
    write(evaluation / "scores.json", {"reconstruction": reconstruction, "generation": generation})
    options = {"classifier_seeds": 2, "classifier_steps": 100, "classifier_clips": 64}
    sizes = {"root": "/clips/shapes", "resolution": 16, "num_frames": 5, "frame_stride": 1}
    made = {
        "settings": {"data": sizes, "evaluate": options},
        "inputs": {"data set": {"path": "d", "hash": data}, "samples": {"path": str(samples), "hash": "x"}},
        "git_commit": "0123456789abcdef",
    }
    write(evaluation / "provenance.json", made)
    write(evaluation / "done.json", {})
    write(evaluation / "time.json", {"seconds": 60.0, "peak_rss_gb": 1.5})
    write(run / "train_vae" / "time.json", {"seconds": 120.0, "peak_rss_gb": 2.5})
    write(samples / "provenance.json", {"inputs": {"vae": {"path": str(run / "elsewhere"), "hash": "x"}}})
    plan = [{"name": f"{label}-{seed}", "class": label, "seed": seed} for label in ("up", "down") for seed in (0, 1)]
    write(samples / "samples.json", plan)
    videos = torch.arange(4, dtype=torch.uint8).mul(40).reshape(4, 1, 1, 1, 1).expand(4, 5, 16, 16, 3)
    write_preview(SampleSet(ClipSet.of(videos, [0, 0, 1, 1]), ("a", "b", "c", "d"), "x", "", 5), evaluation)
    return run


def config(root: Path, *arguments: str) -> Experiment:
    return load_config(Experiment, [f"run.root={root}", *arguments], ROOT / "configs" / "demo.yaml")


def test_the_page_shows_every_result_and_keeps_the_papers_apart(tmp_path: Path) -> None:
    for name, fvd in (("first", 100.0), ("second", 90.0)):
        make_run(tmp_path, name, fvd)
    report.run(config(tmp_path, f"report.runs=[{tmp_path}]", "report.compare=fvd16"))
    page = (tmp_path / "leaderboard" / "index.html").read_text()
    ours, papers = map(html.unescape, page.split('<section class="published">'))
    assert ours.index("second") < ours.index("first"), "ranked: the better one first"
    assert "100 ± 2.5" in ours and "data:image/webp" in ours and "166.39" not in ours
    assert all(figure.source.split(",")[0] in papers for figure in PUBLISHED) and "166.39" in papers
    assert not re.search(r'(src|href)="(?!data:)', page), "the page asks nothing of anyone"
    stored = json.loads((tmp_path / "leaderboard" / "leaderboard.json").read_text())
    assert [entry["run"] for entry in stored] == ["first", "second"]
    assert stored[0]["scores"]["class_accuracy_first_frame"] == {
        "value": 0.2,
        "id": "2 classifiers, 100 steps, 64 clips",
        "spread": None,
    }


def test_costs_are_those_of_the_run(tmp_path: Path) -> None:
    result = find_results([str(make_run(tmp_path, "one", 1.0))], str(tmp_path))[0]
    assert result.seconds == {"train_vae": 120.0, "evaluate": 60.0} and result.peak_rss_gb == 2.5
    assert result.scores["class_accuracy"].spread == pytest.approx(0.0707, abs=1e-4)
    assert result.scores["kernel_distance_i3d"].id == STRICT, "from the same features as the Frechet distance"
    assert "psnr_warp_only" not in result.scores and result.parameters == {}


def test_parameters_are_counted_without_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", 1.0)
    vae, latte = tiny_vae("default"), tiny_latte()
    vae.save_pretrained(run / "train_vae" / "best")
    latte.save_config(run / "train_latte" / "last")
    (run / "train_vae" / "best" / "diffusion_pytorch_model.safetensors").unlink()
    result = find_results(["one"], str(tmp_path))[0]
    assert result.parameters == {
        "autoencoder": sum(p.numel() for p in vae.parameters()),
        "Latte": sum(p.numel() for p in latte.parameters()),
    }
    assert parameters_of(run / "train_vae" / "best") == result.parameters["autoencoder"]


def test_different_protocols_and_data_never_share_a_column(tmp_path: Path) -> None:
    make_run(tmp_path, "strict", 100.0)
    make_run(tmp_path, "also_strict", 90.0)
    make_run(tmp_path, "latte", 50.0, protocol="fvd16-latte")
    results = find_results([str(tmp_path)], str(tmp_path))
    shown = table(results, GENERATION)
    columns = [(column["metric"].name, column["id"]) for column in shown["columns"]]
    assert columns.count(("fvd16", STRICT)) == columns.count(("fvd16", "fvd16-latte")) == 1
    for row in shown["rows"]:
        cells = [row["cells"][columns.index(("fvd16", identity))] for identity in (STRICT, "fvd16-latte")]
        assert [cell is None for cell in cells] == [row["result"].run == "latte", row["result"].run != "latte"]
    best = {row["result"].run for row in shown["rows"] for cell in row["cells"] if cell and cell["best"]}
    assert "latte" not in best - {"latte"} and "also_strict" in best
    make_run(tmp_path, "other_data", 1.0, data="b" * 64)
    report.run(config(tmp_path, f"report.runs=[{tmp_path}]"))
    page = (tmp_path / "leaderboard" / "index.html").read_text()
    assert page.count("<h2>Data: shapes") == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"protocol": "fvd16-latte"}, ("fvd16-latte", STRICT, "different protocols are not compared")),
        ({"data": "b" * 64}, ("different real clips", "bbbbbbbb")),
    ],
)
def test_a_comparison_across_protocols_is_refused_in_one_sentence(tmp_path: Path, other: dict, words: tuple) -> None:
    make_run(tmp_path, "one", 100.0)
    make_run(tmp_path, "two", 50.0, **other)
    with pytest.raises(ValueError, match="fvd16 of one/guidance4-1234") as refusal:
        report.run(config(tmp_path, "report.runs=[one,two]", "report.compare=fvd16"))
    assert all(word in str(refusal.value) for word in words) and "\n" not in str(refusal.value)
    assert not (tmp_path / "leaderboard").exists(), "no page is written"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 100.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="'empty'.*no finished scores"):
        report.run(config(tmp_path, "report.runs=[one,empty]"))
    with pytest.raises(ValueError, match="no such score in one/"):
        report.run(config(tmp_path, "report.runs=[one]", "report.compare=fid_torchvision"))
    with pytest.raises(ValueError, match="name some in report.runs"):
        config(tmp_path, "report.compare=fvd16")


def test_ranking_knows_which_way_is_better(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 100.0)
    first = find_results(["one"], str(tmp_path))[0]
    for name, values, order in (
        ("psnr", (30.0, 32.0, 31.0), [1, 2, 0]),
        ("proxy_frechet_temporal", (30.0, 32.0, 31.0), [0, 2, 1]),
        ("diversity", (0.5, 1.1, 1.6), [1, 0, 2]),
    ):
        results = [replace(first, run=str(i), scores={name: Score(value, "x")}) for i, value in enumerate(values)]
        assert [int(result.run) for result in rank(results, name)] == order, name
    assert badness("psnr", None) == float("inf")
