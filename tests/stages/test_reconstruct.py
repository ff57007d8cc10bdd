"""The reconstruct stage: every file ends in a video or a named reason, once; its scores are those of the model."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from nano_run import NANO, nano

from pipelines import prepare_data, reconstruct
from pipelines.data.frame_reader import count_frames
from pipelines.data.video_file import read_video, to_float, to_uint8
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.metrics.frame_quality import frame_psnr
from pipelines.run.stage import main
from vae.registry import load_autoencoder

OUTPUTS = ["components.png", "reconstruction.mp4", "scores.json", "side_by_side.mp4"]


def experiment(root: Path, *arguments: str) -> Experiment:
    given = ["reconstruct.clips_per_file=0", "reconstruct.latent_map=false", "reconstruct.gop.max_frames=5"]
    return nano(root, *given, *arguments)


def results(root: Path, prefix: str = "") -> list[Path]:
    """The folders of results, newest last."""
    folders = (root / "nano" / "reconstruct").glob(f"{prefix}*-????????")
    return sorted(folders, key=lambda path: path.stat().st_ctime_ns)


def call(*arguments: str) -> None:
    """The stage as a command."""
    main("reconstruct", reconstruct.run, Experiment, ("reconstruct", "run"), arguments=[str(NANO), *arguments])


@pytest.fixture
def videos(tmp_path, make_file) -> Path:
    """Three readable files of odd sizes and lengths, a text file, and two that only pretend to be videos."""
    folder = tmp_path / "videos"
    make_file(folder / "a.mp4", num_frames=12, height=36, width=80, seed=1)
    make_file(folder / "class" / "b.avi", num_frames=7, height=30, width=22, seed=2)
    make_file(folder / "-one frame.mp4", num_frames=1, height=24, width=24, codec="h264")
    (folder / "notes.txt").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    return folder


def test_every_file_ends_in_a_video_or_a_reason(tmp_path, videos, autoencoders, capfd) -> None:
    config = experiment(tmp_path, f"reconstruct.input={videos}", f"reconstruct.vae={autoencoders / 'default'}",
                        "reconstruct.protocols=[in_memory,leanvae,wfvae]")  # fmt: skip
    reconstruct.run(config)
    (folder,) = results(tmp_path)
    shapes = {"a.mp4": (12, 36, 80), "class/b.avi": (7, 30, 22), "-one frame.mp4": (1, 24, 24)}
    for name, shape in shapes.items():
        written = folder / "files" / name
        assert sorted(path.name for path in written.iterdir()) == OUTPUTS
        assert tuple(read_video(written / "reconstruction.mp4").shape[:3]) == shape
        assert count_frames(written / "side_by_side.mp4", "av") == shape[0]
    summary = json.loads((folder / "scores.json").read_text())
    assert [record["file"] for record in summary["files"]] == sorted(shapes)
    reasons = {entry["file"]: entry["reason"] for entry in summary["unreadable"]}
    assert sorted(reasons) == ["empty.mp4", "noise.mp4", "notes.txt"]
    assert "0 bytes" in reasons["empty.mp4"] and ".txt is no video" in reasons["notes.txt"]
    assert list(summary["mean"]) == ["in_memory", "leanvae", "wfvae"]
    assert len({scores["psnr"] for scores in summary["mean"].values()}) == 3
    page = (folder / "index.html").read_text()
    printed = capfd.readouterr()
    for name in (*shapes, *reasons):
        assert name in page
    assert all(f"not reconstructed: {name}" in printed.err for name in reasons)
    assert "files/-one%20frame.mp4/side_by_side.mp4" in page
    assert "class/b.avi" in printed.out and "weights of LPIPS are absent" in printed.out


@torch.no_grad()
def test_scores_are_those_of_the_groups_of_pictures(tmp_path, videos, autoencoders) -> None:
    path = autoencoders / "default"
    reconstruct.run(experiment(tmp_path, f"reconstruct.input={videos / 'a.mp4'}", f"reconstruct.vae={path}"))
    record = json.loads(next(results(tmp_path)[0].rglob("files/*/scores.json")).read_text())
    model, original = load_autoencoder(path), read_video(videos / "a.mp4")
    groups = [to_float(part).unsqueeze(0) for part in original.split(5)]
    decoded = torch.cat([to_uint8(model.reconstruct(group)[0]) for group in groups])
    per_frame = frame_psnr(original.unsqueeze(0), decoded.unsqueeze(0))[0]
    assert record["keyframes"] == [0, 5, 10]
    assert record["psnr_per_frame"]["in_memory"] == pytest.approx(per_frame.tolist(), abs=2e-2)
    assert record["scores"]["in_memory"]["psnr"] == pytest.approx(per_frame.mean().item(), abs=2e-2)
    components = [model.decode_components(group) for group in groups]
    keyframes = [[to_uint8(c[name][0][:, :1]) for c in components] for name in ("decoded_keyframe", "keyframe")]
    expected = frame_psnr(*(torch.stack(frames) for frames in keyframes)).mean().item()
    assert record["components"]["psnr_keyframe"] == pytest.approx(expected, abs=2e-2)
    latents = sum(z.numel() for group in groups for z in model.encode(group).latents.values())
    assert record["latent_values"] == latents
    assert record["latent_values_per_frame"] == pytest.approx(latents / 12, abs=0.1)


def test_the_same_command_does_only_what_is_missing(tmp_path, videos, autoencoders) -> None:
    arguments = [
        f"reconstruct.input={videos}",
        f"reconstruct.vae={autoencoders / 'default'}",
        "reconstruct.save=[figure]",
    ]
    reconstruct.run(experiment(tmp_path, *arguments))
    (folder,) = results(tmp_path)
    files = folder / "files"
    before = {path: path.stat().st_mtime_ns for path in files.rglob("scores.json")}
    assert len(before) == 3
    scores = json.loads((files / "a.mp4" / "scores.json").read_text())
    shutil.rmtree(files / "a.mp4")  # as if killed there
    (files / ".a.mp4-99999").mkdir()
    shutil.copy(videos / "a.mp4", videos / "class" / "b.avi")  # another content under a known name
    reconstruct.run(experiment(tmp_path, *arguments))
    after = {path: path.stat().st_mtime_ns for path in files.rglob("scores.json")}
    changed = {path.parent.name for path in after if after[path] != before[path]}
    assert changed == {"a.mp4", "b.avi"}
    again = json.loads((files / "a.mp4" / "scores.json").read_text())
    assert again | {"seconds": 0} == scores | {"seconds": 0}
    assert not list(files.glob(".*"))
    assert json.loads((folder / "done.json").read_text())["outputs"] == {"files": 3, "unreadable": 3}


def test_other_options_have_a_folder_of_their_own(tmp_path, videos, autoencoders) -> None:
    base = [f"reconstruct.input={videos / 'class'}", "reconstruct.save=[]"]
    for variant, option in (("default", "max_frames=3"), ("default", "resolution=16"), ("plain", "resolution=16")):
        reconstruct.run(
            experiment(tmp_path, *base, f"reconstruct.vae={autoencoders / variant}", f"reconstruct.{option}")
        )
    folders = results(tmp_path, "class")
    assert len(folders) == 3
    cut, small, plain = (json.loads((path / "scores.json").read_text())["files"][0] for path in folders)
    assert (cut["frames"], cut["frames_in_file"], cut["height"], cut["width"]) == (3, 7, 30, 22)
    assert (small["frames"], small["height"], small["width"]) == (7, 22, 16)
    assert plain["components"]["psnr_keyframe"] is None and small["components"]["psnr_keyframe"] is not None


@pytest.mark.parametrize(("variant", "tile_size"), [("plain", -1), ("no_motion", 64), ("paper", -1)])
def test_every_kind_of_autoencoder(tmp_path, videos, autoencoders, variant: str, tile_size: int) -> None:
    given = [f"reconstruct.input={videos / 'a.mp4'}", f"reconstruct.vae={autoencoders / variant}"]
    reconstruct.run(experiment(tmp_path, *given, f"reconstruct.tile_size={tile_size}"))
    (folder,) = results(tmp_path)
    assert sorted(path.name for path in (folder / "files" / "a.mp4").iterdir()) == OUTPUTS
    components = json.loads((folder / "scores.json").read_text())["components"]
    assert (components["psnr_keyframe"] is None) == (variant == "plain")


def test_names_that_are_long_or_no_text(tmp_path, make_file, autoencoders, capfd) -> None:
    folder, long_name, bad_name = tmp_path / "videos", "x" * 240 + ".mp4", os.fsdecode(b"\xff.mp4")
    make_file(folder / long_name[-20:], num_frames=2, height=24, width=24)
    shutil.copy(folder / long_name[-20:], folder / bad_name)
    (folder / long_name[-20:]).rename(folder / long_name)
    reconstruct.run(experiment(tmp_path, f"reconstruct.input={folder}", f"reconstruct.vae={autoencoders / 'plain'}"))
    (results_folder,) = results(tmp_path)
    summary = json.loads((results_folder / "scores.json").read_text())
    ended = [*(record["file"] for record in summary["files"]), *(entry["file"] for entry in summary["unreadable"])]
    assert long_name in ended and len(ended) == 2
    assert len(list(results_folder.glob("files/*/reconstruction.mp4"))) == len(summary["files"]) >= 1
    assert "x" * 40 in capfd.readouterr().out and "x" * 40 in (results_folder / "index.html").read_text()


def test_held_out_files_of_the_run(tmp_path, autoencoders, make_file) -> None:
    for seed in range(3):
        make_file(tmp_path / "data" / f"{seed}.mp4", num_frames=6, height=32, width=32, seed=seed)
    given = [f"data.root={tmp_path / 'data'}", "data.num_frames=5", "reconstruct.save=[side_by_side]"]
    config = experiment(tmp_path, f"reconstruct.vae={autoencoders / 'default'}", *given)
    with pytest.raises(ValueError, match="no clip index"):
        reconstruct.run(config)
    prepare_data.run(config)
    reconstruct.run(config)
    (folder,) = results(tmp_path, "held-out")
    held_out = open_index(config).split("validation")
    summary = json.loads((folder / "scores.json").read_text())
    assert [record["file"] for record in summary["files"]] == [entry.path for entry in held_out]
    assert not summary["unreadable"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct.input=nowhere.mp4"], "reconstruct.input 'nowhere.mp4'"),
        (["reconstruct.save=[gif]"], "reconstruct.save .*'gif'.*side_by_side"),
        (["reconstruct.protocols=[lean]"], "reconstruct.protocols .*lean.*in_memory, leanvae, wfvae"),
        (["reconstruct.chunk_frames=6"], "reconstruct.chunk_frames is 6.* 4"),
        (["reconstruct.tile_size=100"], "reconstruct.tile_size is 100.* 64"),
        (["reconstruct.exchange=[one.mp4]"], "reconstruct.exchange .*1 .*two"),
        (["reconstruct.exchange=[one.mp4,two.mp4]"], "reconstruct.exchange .*'one.mp4'"),
        (["reconstruct.vae=nowhere"], "train_vae .*nowhere"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(tmp_path, autoencoders, capsys, arguments, message) -> None:
    model = [f"reconstruct.vae={autoencoders / 'default'}", f"run.root={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        call(*model, *arguments)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_nothing_that_can_be_reconstructed_is_an_error(tmp_path, videos, autoencoders, capsys) -> None:
    for name in ("a.mp4", "-one frame.mp4", "class/b.avi"):
        (videos / name).unlink()
    with pytest.raises(SystemExit) as end:
        call(f"run.root={tmp_path}", f"reconstruct.input={videos}", f"reconstruct.vae={autoencoders / 'plain'}")
    assert end.value.code == 2
    assert "none of 3 files in" in capsys.readouterr().err
    assert len(json.loads((results(tmp_path)[0] / "scores.json").read_text())["unreadable"]) == 3
