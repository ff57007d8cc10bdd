"""Latent maps, component exchange and pictures of components."""

import json
from pathlib import Path

import pytest
import torch
from nano_run import nano
from PIL import Image
from tiny_vae import clip, tiny_vae

from pipelines import reconstruct
from pipelines.data.frame_reader import count_frames
from pipelines.data.video_file import read_video, to_uint8
from pipelines.parts.reconstruct.exchange import exchanged
from pipelines.parts.reconstruct.pictures import (
    SMALLEST_SHOWN,
    FigureFrames,
    best_columns,
    drawn_components,
    side_by_side,
)


def run(root: Path, *arguments: str) -> Path:
    """Calls the stage; the folder of its newest results."""
    given = ["reconstruct.clips_per_file=0", "reconstruct.save=[]", "data.num_frames=5"]
    reconstruct.run(nano(root, *given, *arguments))
    return max((root / "nano" / "reconstruct").glob("*-????????"), key=lambda path: path.stat().st_ctime_ns)


def test_latent_map_of_two_autoencoders(tmp_path, make_file, autoencoders, capsys) -> None:
    for name in "ab":
        make_file(tmp_path / "in" / f"{name}.mp4", num_frames=11, height=40, width=48, seed=ord(name))
    arguments = [f"reconstruct.input={tmp_path / 'in'}", f"reconstruct.vae={autoencoders / 'default'}",
                 f"reconstruct.compare_with={autoencoders / 'plain'}"]  # fmt: skip
    folder = run(tmp_path, *arguments)
    clouds = json.loads((folder / "latent_map.json").read_text())["clouds"]
    assert list(clouds) == ["DeCoVAE (default)", "PlainVAE (plain)"]
    decoupled, plain = clouds.values()
    assert set(decoupled) == {"all", "keyframe", "motion", "residual"} and set(plain) == {"all"}
    # 2 files x 2 clips of 5 frames x 4 x 4 cells of 8 pixels at 32 x 32; what is stored per cell: 6 + 2 + 4, 2 x 6
    assert (decoupled["all"]["points"], decoupled["all"]["dimensions"]) == (64, 12)
    assert (plain["all"]["points"], plain["all"]["dimensions"]) == (64, 12)
    for numbers in (decoupled["all"], decoupled["motion"], plain["all"]):
        assert 0 < numbers["standardised"]["mean_distance"] <= 1
        assert 1 <= numbers["standardised"]["effective_rank"] <= numbers["dimensions"]
    with Image.open(folder / "latent_map.png") as picture:
        assert picture.width > 700 and picture.height > 700
    before = (folder / "latent_map.png").stat().st_mtime_ns
    run(tmp_path, *arguments)
    assert (folder / "latent_map.png").stat().st_mtime_ns == before, "done once"


def test_files_too_short_for_a_latent_map(tmp_path, make_file, autoencoders, capsys) -> None:
    make_file(tmp_path / "a.mp4", num_frames=3, height=32, width=32)
    folder = run(tmp_path, f"reconstruct.input={tmp_path / 'a.mp4'}", f"reconstruct.vae={autoencoders / 'default'}")
    assert not (folder / "latent_map.png").exists()
    assert "no latent map" in capsys.readouterr().out


def test_exchange_of_two_files(tmp_path, make_file, autoencoders) -> None:
    make_file(tmp_path / "a.mp4", num_frames=9, height=40, width=64, seed=1)
    make_file(tmp_path / "b.mp4", num_frames=7, height=64, width=48, seed=2)
    given = [f"reconstruct.exchange=[{tmp_path / 'a.mp4'},{tmp_path / 'b.mp4'}]"]
    folder = run(tmp_path, *given, f"reconstruct.vae={autoencoders / 'default'}")
    assert folder.name.startswith("exchange-a-b-")
    assert json.loads((folder / "done.json").read_text())["outputs"] == {"height": 40, "width": 48, "frames": 7}
    assert count_frames(folder / "exchange.mp4", "av") == 7
    for file in ("exchange.gif", "exchange.png"):
        with Image.open(folder / file) as picture:
            assert picture.width > 200
    with pytest.raises(ValueError, match="PlainVAE .*reconstruct.vae="):
        run(tmp_path, *given, f"reconstruct.vae={autoencoders / 'plain'}")
    (tmp_path / "c.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="c.mp4"):
        run(tmp_path, f"reconstruct.exchange=[{tmp_path / 'a.mp4'},{tmp_path / 'c.mp4'}]",
            f"reconstruct.vae={autoencoders / 'default'}")  # fmt: skip


@torch.no_grad()
def test_exchange_with_itself_is_reconstruction() -> None:
    model, video = tiny_vae("default"), clip(batch=1, num_frames=7, height=24, width=40)
    shown = exchanged(model, [video, video])
    whole = to_uint8(model.reconstruct(video)[0])
    assert torch.equal(shown["A"], to_uint8(video[0]))
    for label in ("A moved as B, residual B", "B moved as A, residual A"):
        assert torch.equal(shown[label], whole)
    components = model.decode_components(video)
    prediction = to_uint8(components["decoded_warped"][0])
    assert (shown["A moved as B"].int() - prediction.int()).abs().max() <= 1


@torch.no_grad()
def test_exchange_takes_the_keyframe_of_one_and_the_motion_of_the_other() -> None:
    model = tiny_vae("default")
    videos = [clip(batch=1, num_frames=5, seed=seed) for seed in (1, 2)]
    shown = exchanged(model, videos)
    for name, video in zip("AB", videos, strict=True):
        keyframe = to_uint8(model.decode_components(video)["decoded_keyframe"][0])[0]
        for label in shown:
            if label.startswith(f"{name} moved"):
                assert (shown[label][0].int() - keyframe.int()).abs().max() <= 1
    own = exchanged(model, [videos[0], videos[0]])
    assert not torch.equal(own["A moved as B"][1:], shown["A moved as B"][1:]), "motion matters"


@pytest.mark.parametrize(("variant", "tiles"), [("default", 9), ("no_motion", 6), ("plain", 3)])
@torch.no_grad()
def test_pictures_show_what_the_autoencoder_has(variant: str, tiles: int) -> None:
    model, video = tiny_vae(variant), clip(batch=1, num_frames=6, height=20, width=28)
    has_motion = bool(model.motion_modules())
    components = model.decode_components(video) | {"original": video}
    picture = side_by_side(components, has_motion)
    scale = SMALLEST_SHOWN / 20  # small frames are enlarged
    columns = best_columns(tiles, SMALLEST_SHOWN, round(28 * scale))
    rows = -(-tiles // columns)
    assert picture.shape[0] == 6 and picture.dtype == torch.uint8
    assert abs(picture.shape[2] - columns * 28 * scale) < 20 * columns
    assert abs(picture.shape[1] - rows * SMALLEST_SHOWN) < 20 * rows
    figure = FigureFrames(6, has_motion)
    for start in (0, 4):
        figure.add(start, {name: x[:, :, start : start + 4] for name, x in components.items()})
    drawn = figure.figure({"reconstruction": 30.0}, [0])
    assert len(figure.wanted) == len(figure.drawn["original"]) == 6
    assert drawn.shape[0] > 100 * len(figure.drawn)


def test_the_error_is_drawn_four_times_as_strong_and_black_where_there_is_none() -> None:
    video = torch.zeros(1, 3, 1, 4, 4)
    changed = video.clone()
    changed[..., 0, 0] = 10 / 127.5
    error = drawn_components({"original": video, "reconstruction": changed}, False)["error"]
    assert error[0, 0, 0].tolist() == [40, 40, 40]
    assert error.sum() == 120


def test_real_files_end_in_a_video_or_a_reason(tmp_path, real_clips, autoencoders) -> None:
    """Original UCF-101, raw MPEG-4 that decord cannot open, WebM, and everything that is broken."""
    inputs = tmp_path / "real"
    inputs.mkdir()
    (inputs / "broken").symlink_to(real_clips / "broken")
    for name in ("ucf101/Fencing/v_Fencing_g01_c01.avi", "ucf101_reencoded/Basketball/v_Basketball_g07_c04.mp4",
                 "clips/big_buck_bunny_432_433.webm"):  # fmt: skip
        (inputs / Path(name).name).symlink_to(real_clips / name)
    folder = run(tmp_path, f"reconstruct.input={inputs}", f"reconstruct.vae={autoencoders / 'default'}",
                 "reconstruct.max_frames=5", "reconstruct.resolution=32", "reconstruct.save=[reconstruction]",
                 "reconstruct.latent_map=false", "data.probe_seconds=120")  # fmt: skip
    summary = json.loads((folder / "scores.json").read_text())
    done = {record["file"]: record for record in summary["files"]}
    reasons = {entry["file"]: entry["reason"] for entry in summary["unreadable"]}
    assert len(done) + len(reasons) == 3 + len(list((real_clips / "broken").iterdir()))
    assert all(reasons.values()) and len(reasons) > 5
    assert not done["v_Basketball_g07_c04.mp4"]["decord_reads_it"]
    for name, record in done.items():
        video = read_video(folder / "files" / name / "reconstruction.mp4")
        assert len(video) == record["frames"] == min(5, record["frames_in_file"])
        assert record["scores"]["in_memory"]["psnr"] > 0
