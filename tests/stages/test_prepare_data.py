"""The stage prepare_data: embedded data, table, reasons, resume, and an index that later stages can trust."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.data.clip_index import ClipIndex
from pipelines.data.data_config import DataConfig
from pipelines.data.synthetic import MovingShapesConfig
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.prepare_data import describe_index, run
from pipelines.run.run_config import RunConfig

SHAPES = MovingShapesConfig(resolution=32, num_frames=6, train_per_class=2, validation_per_class=1)


@pytest.fixture
def config(tmp_path) -> Experiment:
    data = DataConfig(num_frames=5, resolution=16, probe_workers=1, shapes=SHAPES)
    return Experiment(data=data, run=RunConfig(name="test", root=str(tmp_path / "runs")))


def with_data(config: Experiment, **options) -> Experiment:
    return replace(config, data=replace(config.data, **options))


@pytest.fixture
def folder(tmp_path, make_file) -> Path:
    for number in range(3):
        make_file(tmp_path / "videos" / f"{number}.avi", seed=number, num_frames=6, height=16, width=64)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"nothing")
    return tmp_path / "videos"


def test_embedded_data_in_one_go_and_again(config, capsys) -> None:
    run(config)
    table = capsys.readouterr().out.splitlines()
    assert [row.split() for row in table] == [
        ["class", "train", "validation", "rejected"],
        *[[name, "2", "1", "0"] for name in open_index(config).classes],
        ["total", "16", "8", "0"],
    ]
    stage = Path(config.run.root) / "test" / "prepare_data"
    index = ClipIndex.load(stage / "index.json")
    assert len(index.classes) == 8 and index == open_index(config)
    assert json.loads((stage / "done.json").read_text())["outputs"]["train"] == 16
    before = (stage / "index.json").read_bytes()
    run(config)
    assert (stage / "index.json").read_bytes() == before


def test_moving_shapes_are_never_flipped(config) -> None:
    with pytest.raises(ValueError, match=r"data\.flip=false"):
        run(with_data(config, flip=True))
    run(config)
    with pytest.raises(ValueError, match="MoveLeft into MoveRight"):
        open_index(with_data(config, flip=True))


def test_rejected_files_are_listed_with_reasons(config, folder, capsys) -> None:
    run(with_data(config, root=str(folder)))
    out = capsys.readouterr().out
    assert "(no classes)" in out and "1 files are not used" in out and "broken.mp4: unreadable" in out


def test_long_lists_of_rejected_files_are_cut() -> None:
    rejected = tuple((f"{i:02d}.avi", "empty file (0 bytes)") for i in range(25))
    text = describe_index(ClipIndex(Path("."), (), (), rejected, ("gone.avi",)))
    assert "19.avi" in text and "20.avi" not in text and "... and 5 more in index.json" in text
    assert "1 files are named in the lists but do not exist, such as gone.avi" in text


def test_later_stages_refuse_an_index_made_otherwise(config, folder) -> None:
    with pytest.raises(ValueError, match="prepare_data.py"):
        open_index(config)
    config = with_data(config, root=str(folder))
    run(config)
    assert open_index(with_data(config, resolution=24, memory_cache_gb=0.0)) == open_index(config)
    with pytest.raises(ValueError, match=r"data.num_frames \(was 5, now 1\)"):
        open_index(with_data(config, num_frames=1))
    with pytest.raises(ValueError, match="data.root"):
        open_index(with_data(config, root=""))


def test_moved_data_go_on_and_other_data_are_refused(config, folder, make_file) -> None:
    run(with_data(config, root=str(folder)))
    moved = folder.rename(folder.with_name("moved"))
    run(with_data(config, root=str(moved)))
    assert open_index(with_data(config, root=str(moved))).root == moved
    other = folder.with_name("other")
    for number in range(2):
        make_file(other / f"{number}.avi", seed=9 + number, num_frames=6, height=16, width=64)
    with pytest.raises(ValueError, match="run.name="):
        run(with_data(config, root=str(other)))
    with pytest.raises(ValueError, match="prepare_data"):
        open_index(with_data(config, root=str(other)))


def test_changed_files_are_told(config, folder, make_file, capsys) -> None:
    config = with_data(config, root=str(folder))
    run(config)
    before = open_index(config).fingerprint
    make_file(folder / "3.avi", seed=3, num_frames=6, height=16, width=64)
    run(config)
    assert "have changed" in capsys.readouterr().out and open_index(config).fingerprint != before
