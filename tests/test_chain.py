"""The whole chain at nano size: killed and resumed, called again, and what its stages refuse."""

import hashlib
import io
import json
import math
import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from nano_run import command, nano
from PIL import Image

from latte.latte import Latte
from pipelines import (
    cache_latents,
    chain,
    evaluate,
    prepare_data,
    report,
    sample,
    train_latte,
    train_motion,
    train_vae,
)
from pipelines.data.latent_cache import LatentCache
from pipelines.data.shape_drawing import TORUS
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import load_latte
from pipelines.inputs.samples import sample_folder
from pipelines.inputs.scores import scores_folder
from pipelines.parts.report import animations
from pipelines.run.folder import read_jsonl
from pipelines.run.hashes import hash_folder
from vae.registry import build_autoencoder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As nano.yaml says: two threads wait for each other where tests share the machine, and round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(nano_root: Path) -> Path:
    """A finished nano run, killed once while the autoencoder was trained, then started again by the same command."""
    return nano_root


@pytest.fixture
def run_folder(root: Path) -> Path:
    return root / "nano"


def test_a_killed_chain_goes_on_and_ends_with_the_same_weights(root: Path, run_folder: Path) -> None:
    assert "train_vae: going on from step" in (root / "second.log").read_text()
    unbroken = nano(root, "run.name=unbroken")
    for stage in (prepare_data, train_motion, train_vae):
        stage.run(unbroken)
    for stage in ("train_motion", "train_vae"):
        for name in ("last", "best"):
            assert hash_folder(run_folder / stage / name) == hash_folder(root / "unbroken" / stage / name)
        ours, theirs = (read_jsonl(root / name / stage / "metrics.jsonl") for name in ("nano", "unbroken"))
        for line in [*ours, *theirs]:
            line.pop("steps_per_second", None)
        assert ours == theirs


def test_every_stage_leaves_its_record(run_folder: Path) -> None:
    stages = ["prepare_data", "train_motion", "train_vae", "cache_latents", "train_latte"]
    folders = [run_folder / stage for stage in stages]
    folders += [
        folder
        for name in ("sample", "evaluate", "report")
        for folder in (run_folder / name).iterdir()
        if folder.is_dir()
    ]
    assert {folder.relative_to(run_folder).parts[0] for folder in folders} == {*stages, "sample", "evaluate", "report"}
    for folder in folders:
        done, made = (json.loads((folder / name).read_text()) for name in ("done.json", "provenance.json"))
        assert done["seconds"] > 0 and 0.1 < done["peak_rss_gb"] < 8, folder
        assert made["command"] == command(run_folder.parent) and len(made["git_commit"]) >= 7, folder
    for stage in ("train_motion", "train_vae", "train_latte"):
        assert list((run_folder / stage / "previews").iterdir()), f"{stage} drew no pictures"


def test_the_summary_has_every_number(run_folder: Path) -> None:
    summary = json.loads((run_folder / "report" / "summary.json").read_text())
    assert list(summary) == ["reconstruction", "generation", "seconds", "peak_rss_gb"]
    assert set(summary["reconstruction"]) == {
        *("psnr", "ssim", "psnr_copy_first_frame", "psnr_warp_only", "psnr_warp_decoded"),
    }
    assert set(summary["generation"]) == {
        *("class_accuracy", "class_accuracy_real", "class_accuracy_real_decoded", "class_accuracy_first_frame"),
        *("diversity", "proxy_fvd16", "proxy_fvd16_floor", "two_sample_accuracy", "two_sample_accuracy_real"),
        *("blockiness", "blockiness_decoded"),
    }
    stages = ["prepare_data", "train_motion", "train_vae", "cache_latents", "train_latte", "sample", "evaluate"]
    assert list(summary["seconds"]) == stages
    numbers = [value for section in list(summary.values())[:3] for value in section.values()] + [summary["peak_rss_gb"]]
    assert all(math.isfinite(number) for number in numbers)
    scores = next((run_folder / "evaluate").glob("*/scores.json"))
    for section, values in json.loads(scores.read_text()).items():
        for name, value in summary[section].items():
            metric = name.removesuffix("_floor")
            measured = values[name] if metric == name else values[f"{metric}_record"]["floor"]["value"]
            assert value == measured, f"{name} in the summary is not what evaluate measured"
    assert (
        summary["seconds"]["train_vae"] == json.loads((run_folder / "train_vae" / "done.json").read_text())["seconds"]
    )


def test_the_cache_holds_both_splits_with_statistics_of_the_training_split(run_folder: Path) -> None:
    cache = LatentCache(run_folder / "cache_latents" / "latents")
    assert (len(cache.split("train")), len(cache.split("validation"))) == (24, 16)
    whitened = cache.latents(cache.split("train"))
    for part, latents in whitened.items():
        flat = rearrange(latents, "b c t h w -> c (b t h w)")
        torch.testing.assert_close(flat.mean(dim=1), torch.zeros(len(flat)), atol=1e-4, rtol=0)
        torch.testing.assert_close(flat.std(dim=1), torch.ones(len(flat)), atol=0.02, rtol=0, msg=part)


def test_the_page_needs_nothing_beside_itself(run_folder: Path) -> None:
    page = (run_folder / "report" / "index.html").read_text()
    assert len(page) < 15_000_000
    sources = re.findall(r'(?:src|href|data|srcset)="([^"]*)"', page)
    assert not re.search(r"<(link|script|iframe|object)|url\(|@import", page)
    frames, curves = [], 0
    for source in sources:
        kind, content = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", source).groups()
        if kind == "svg+xml":
            curves += 1
            assert b"http:" not in re.sub(
                rb'(xmlns[:a-z]*|rdf:\w+)="[^"]*"|"http://www.w3.org[^"]*"', b"", b64decode(content)
            )
        else:
            frames.append(getattr(Image.open(io.BytesIO(b64decode(content))), "n_frames", 1))
    assert curves == 3, "one for each training"
    assert set(frames) == {1, 17}, "the colour wheel stands still, clips have all their frames"
    assert frames.count(17) > 2 * len(TORUS), "each class generated and real, and reconstructed clips"
    for name in ("samples.gif", "components.gif"):
        with Image.open(run_folder / "report" / name) as image:
            assert image.n_frames == 17
    config = page[page.index("<details>") :]
    assert "micro_batch_size: 2" in config and "fusion_blocks: 1" in config


def test_a_latte_is_fine_tuned_with_other_options(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of another run: its weights, with other shares of noise and labels, one block more, and a cache of its own."""
    given = (f"cache.vae={root / 'nano'}", f"latte.init_from={root / 'nano'}", "cache.storage=means_fp16")
    fine = nano(root, "run.name=fine", *given, "latte.label_dropout=0.3", "latte.time_mean=0.5", "latte.depth=3")
    for stage in (prepare_data, cache_latents, train_latte):
        stage.run(fine)
    assert "fit in part, new weights: blocks.2" in capfd.readouterr().err
    saved = json.loads((root / "fine" / "train_latte" / "last" / "config.json").read_text())
    assert (saved["training"]["label_dropout"], saved["training"]["time_mean"]) == (0.3, 0.5)
    with pytest.raises(ValueError, match="the width of latte.size"):
        train_latte.run(replace(fine, latte=replace(fine.latte, width=32)))


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_finished_chain_changes_nothing(
    root: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", command(root))
    before = digests(run_folder)
    chain.run(nano(root))
    assert digests(run_folder) == before
    assert capfd.readouterr().err.count("nothing to train") == 3


def test_more_steps_go_on_and_another_size_is_refused(root: Path) -> None:
    config = nano(root, "run.name=longer")
    prepare_data.run(config)
    train_motion.run(config)
    train_motion.run(nano(root, "run.name=longer", "motion.loop.steps=6"))
    steps = [line["step"] for line in read_jsonl(root / "longer" / "train_motion" / "metrics.jsonl") if "lr" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"module.width .*was 8, now 16.*run.name="):
        train_motion.run(nano(root, "run.name=longer", "vae.deco_vae.motion_module.width=16"))


def test_samples_with_other_options_have_their_own_folder(root: Path, run_folder: Path) -> None:
    other = nano(root, "sample.seed=100", "sample.per_class=1", "sample.classes=[MoveDown,7]", "sample.save=[mp4]")
    before = digests(sample_folder(nano(root)))
    with pytest.raises(ValueError, match="no samples of this configuration"):
        report.run(other)
    sample.run(other)
    folder = sample_folder(other)
    assert folder != sample_folder(nano(root)) and digests(sample_folder(nano(root))) == before
    plan = json.loads((folder / "samples.json").read_text())
    assert [(entry["class"], entry["seed"]) for entry in plan] == [("MoveDown", 100), ("Shrink", 101)]
    assert sorted(path.name for path in (folder / "mp4").iterdir()) == ["00000-MoveDown.mp4", "00001-Shrink.mp4"]
    with pytest.raises(ValueError, match="not finished.*chain.py"):
        report.run(other)
    evaluate.run(other)  # from mp4 files, and of two classes only: its scores cannot be taken for those of the first
    scores = json.loads((scores_folder(other) / "scores.json").read_text())
    record = scores["generation"]["proxy_fvd16_record"]
    assert record["id"] == "proxy_fvd16-strict-lossy-n2-sets1-own-classes-bf16"
    with pytest.raises(ValueError, match="'Jump'.*MoveLeft, MoveRight"):
        sample.run(nano(root, "sample.classes=[Jump]"))


def test_a_missing_sample_is_made_again_with_the_same_bytes(root: Path) -> None:
    folder = sample_folder(nano(root))
    file = folder / "lossless" / "00003-MoveRight.safetensors"
    before = file.read_bytes()
    file.unlink()
    sample.run(nano(root, "sample.batch_size=1"))
    assert file.read_bytes() == before


def test_a_cache_of_another_autoencoder_is_refused(root: Path, tmp_path: Path) -> None:
    config = nano(root)
    torch.manual_seed(5)
    build_autoencoder(config.vae).save_pretrained(tmp_path / "other")
    other = nano(root, f"cache.vae={tmp_path / 'other'}")
    with pytest.raises(ValueError, match=r"another vae.*cache_latents.py"):
        train_latte.run(other)
    with pytest.raises(ValueError, match=r"another vae.*run.name="):
        cache_latents.run(other)


def test_the_page_is_of_one_configuration(root: Path) -> None:
    with pytest.raises(ValueError, match=r"train_vae .*vae.loop.log_every \(was 1, now 2\)"):
        report.run(nano(root, "vae.loop.log_every=2"))


def test_models_from_elsewhere_are_not_trained_again(root: Path, run_folder: Path) -> None:
    def stages(*arguments: str) -> list[str]:
        names = [stage.STAGE for stage in chain.needed_stages(nano(root, *arguments))]
        return [name for name in names if name.startswith("train_")]

    assert stages() == ["train_motion", "train_vae", "train_latte"]
    assert stages(f"cache.vae={run_folder / 'train_vae' / 'last'}") == stages(), "its own weights, named explicitly"
    elsewhere = ["run.name=second", f"cache.vae={run_folder}"]
    assert stages(*elsewhere) == ["train_latte"]
    assert stages(*elsewhere, f"sample.latte={run_folder}") == []
    assert stages(f"vae.motion_from={run_folder}") == ["train_vae", "train_latte"]
    assert stages("vae.name=plain_vae") == ["train_vae", "train_latte"]
    second = nano(root, *elsewhere, f"sample.latte={run_folder}", "sample.per_class=1", "sample.classes=[Grow]")
    sample.run(second)
    assert (sample_folder(second) / "mp4" / "00000-Grow.mp4").exists()


def test_a_dry_run_tells_the_sizes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*command(tmp_path), "run.dry_run=true"])
    sections = ("data", "motion", "vae", "cache", "latte", "sample", "evaluate", "run")
    with pytest.raises(SystemExit) as end:
        chain.main(chain.STAGE, chain.run, Experiment, sections, chain.describe)
    assert end.value.code == 0 and list(tmp_path.iterdir()) == []
    shown = capsys.readouterr().out
    assert "4 steps of 4 clips" in shown and "tokens per clip" in shown and "'keyframe': (8, 1, 4, 4)" in shown


def test_every_class_begins_with_the_same_pictures(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page of a transformer that was trained for it; on no other."""
    config = nano(run_folder.parent)
    index = open_index(config)
    assert animations.animate_pictures(config, index) == []

    def trained_for_it(*arguments: Any) -> Latte:
        model = load_latte(*arguments)
        model.training_options = replace(model.training_options, clean_keyframe_share=0.5)
        return model

    monkeypatch.setattr(animations, "load_latte", trained_for_it)
    rows = animations.animate_pictures(config, index)
    assert [name for name, _ in rows] == list(TORUS)
    assert {video.shape for _, videos in rows for video in videos} == {(17, 32, 32, 3)} and len(rows[0][1]) == 3
    assert not torch.equal(rows[0][1][0][0], rows[0][1][1][0])
    for first, *others in zip(*(videos for _, videos in rows), strict=True):
        assert all(torch.equal(first[0], other[0]) for other in others)


def test_videos_without_classes(tmp_path: Path, make_file, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain folder goes through a plain autoencoder, the cache, an unconditional Latte, the scores and the page.

    The guidance that presets set has no effect there, which is said; the page shows videos that were saved as mp4.
    """
    for number in range(8):
        make_file(tmp_path / "videos" / f"clip{number}.avi", num_frames=20, height=32, width=40, seed=number)
    options = [f"data.root={tmp_path / 'videos'}", "data.validation_fraction=0.25", "sample.save=[mp4]"]
    channels = "{low_width: 8, high_width: 16, separate_blocks: 1, fusion_blocks: 1}"
    plain = ["vae.name=plain_vae", f"vae.plain_vae.encoder={channels}", f"vae.plain_vae.decoder={channels}"]
    config = nano(tmp_path, *options, *plain)
    for stage in (prepare_data, train_vae, cache_latents, train_latte, sample):
        stage.run(config)
    assert LatentCache(tmp_path / "nano" / "cache_latents" / "latents").classes == ()
    assert [entry["class"] for entry in json.loads((sample_folder(config) / "samples.json").read_text())] == [None] * 2
    with pytest.raises(ValueError, match="sample.classes .*without classes"):
        sample.run(replace(config, sample=replace(config.sample, classes=("MoveLeft",))))
    assert config.sample.guidance_scale == 2 and sample_folder(config).name.startswith("guidance1-")
    assert "the model has no classes, so sample.guidance_scale has no effect" in capsys.readouterr().err
    evaluate.run(config)
    report.run(config)
    summary = json.loads((tmp_path / "nano" / "report" / "summary.json").read_text())
    assert summary["generation"]["class_accuracy"] is None and summary["reconstruction"]["psnr_warp_only"] is None
    assert summary["generation"]["diversity"] > 0 and summary["reconstruction"]["psnr"] > 0
    assert "train_motion" not in summary["seconds"]
