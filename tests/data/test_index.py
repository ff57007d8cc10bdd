"""The clip index: layouts, lists, splits, and a named reason for every file that is not used."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.clip_index import ClipIndex, build_index
from pipelines.data.data_config import DataConfig
from pipelines.data.inventory import VideoFile, group_of
from pipelines.data.split_lists import assign_splits, read_split_lists, take_inventory

TINY = {"num_frames": 5, "resolution": 16, "probe_workers": 1}
SMALL_FILE = {"num_frames": 6, "height": 16, "width": 24}


def index_of(root: Path, **options) -> ClipIndex:
    return build_index(DataConfig(root=str(root), **TINY | options), seed=0)


def facts(index: ClipIndex) -> dict[str, tuple[str, str]]:
    return {e.path: (index.classes[e.label] if index.classes else "", e.split) for e in index.entries}


@pytest.fixture
def ucf_tree(tmp_path, make_file) -> Path:
    root = tmp_path / "videos"
    for number, name in enumerate(["Jump", "Run"]):
        for group in (1, 2, 3):
            for clip in (1, 2):
                file = root / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi"
                make_file(file, seed=100 * number + 10 * group + clip, **SMALL_FILE)
    return root


def test_official_lists_with_crlf(ucf_tree, tmp_path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"1 Run\r\n2 Jump\r\n3 Swim\r\n")
    (lists / "trainlist02.txt").write_bytes(b"Run/v_Run_g01_c01.avi 1\r\nJump/v_Jump_g01_c01.avi 2\r\n\r\n")
    (lists / "testlist02.txt").write_bytes(b"Run/v_Run_g02_c01.avi\r\nSwim/v_Swim_g01_c01.avi\r\n")
    index = index_of(ucf_tree, splits=str(lists), split_number=2)
    assert index.classes == ("Run", "Jump")  # in the order of classInd.txt, those that are there
    assert facts(index) == {
        "Run/v_Run_g01_c01.avi": ("Run", "train"),
        "Jump/v_Jump_g01_c01.avi": ("Jump", "train"),
        "Run/v_Run_g02_c01.avi": ("Run", "validation"),
    }
    assert index.missing == ("Swim/v_Swim_g01_c01.avi",)
    assert len(index.rejected) == 9 and all("in neither" in reason for _, reason in index.rejected)
    with pytest.raises(ValueError, match="trainlist01.txt"):
        index_of(ucf_tree, splits=str(lists))


def test_lists_that_contradict_themselves_are_refused(tmp_path) -> None:
    (tmp_path / "trainlist01.txt").write_text("A/a.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("A/a.avi\n")
    with pytest.raises(ValueError, match="train list .*test list"):
        read_split_lists(tmp_path, 1)
    (tmp_path / "testlist01.txt").write_text("B/b.avi\n")
    (tmp_path / "classInd.txt").write_text("1 A\n")
    with pytest.raises(ValueError, match="'B'.*classInd.txt"):
        read_split_lists(tmp_path, 1)


def test_official_ucf101_lists(real_clips) -> None:
    for number, train, test in ((1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)):
        classes, splits = read_split_lists(real_clips / "ucf101_splits", number)
        assert len(classes) == 101 and classes[0] == "ApplyEyeMakeup" and classes[-1] == "YoYo"
        assert list(splits.values()).count("train") == train and len(splits) == train + test
        groups = {side: {group_of(path) for path in splits if splits[path] == side} for side in ("train", "validation")}
        assert not groups["train"] & groups["validation"]


def test_class_folders_are_split_by_whole_groups(ucf_tree) -> None:
    index = index_of(ucf_tree, validation_fraction=0.3)
    assert index.classes == ("Jump", "Run") and not index.rejected
    sides: dict[str, set[str]] = {}
    for path, (_, split) in facts(index).items():
        sides.setdefault(group_of(path), set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {"validation"} for side in sides.values()) == 2  # one group of each class
    assert index_of(ucf_tree, validation_fraction=0.3) == index


def test_train_and_test_folders(tmp_path, make_file) -> None:
    for number, name in enumerate(["train/A/1.avi", "train/B/2.mp4", "val/A/3.avi"]):
        make_file(tmp_path / name, seed=number, **SMALL_FILE)
    assert facts(index_of(tmp_path)) == {
        "train/A/1.avi": ("A", "train"),
        "train/B/2.mp4": ("B", "train"),
        "val/A/3.avi": ("A", "validation"),
    }


def test_folder_without_classes(tmp_path, make_file) -> None:
    for number in range(4):
        make_file(tmp_path / f"{number}.avi", seed=number, **SMALL_FILE)
    (tmp_path / "readme.txt").write_text("not a video")
    index = index_of(tmp_path, validation_fraction=0.25)
    assert index.classes == () and {entry.label for entry in index.entries} == {-1}
    assert sorted(entry.split for entry in index.entries) == ["train"] * 3 + ["validation"]


def test_csv(tmp_path, make_file) -> None:
    for number in range(4):
        make_file(tmp_path / "files" / f"{number}.avi", seed=number, **SMALL_FILE)
    table = tmp_path / "list.csv"
    table.write_text(
        "path,label,split\nfiles/0.avi,10,train\nfiles/1.avi,9,test\nfiles/2.avi,10,\nfiles/9.avi,9,train\n"
    )
    index = index_of(table, validation_fraction=0.0)
    assert index.classes == ("9", "10") and index.missing == ("files/9.avi",)
    assert facts(index) == {
        "files/0.avi": ("10", "train"),
        "files/1.avi": ("9", "validation"),
        "files/2.avi": ("10", "train"),
    }
    table.write_text("files/0.avi\r\nfiles/1.avi\r\n")
    assert index_of(table).classes == ()
    for text, message in (
        ("files/0.avi,a\nfiles/1.avi,\n", "others none"),
        ("files/0.avi,a,future\n", "'future'"),
        ("files/0.avi,a\nfiles/0.avi,b\n", "twice"),
        ("path,label\n", "names no file"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            index_of(table)


def test_every_bad_file_has_its_reason(tmp_path, make_file) -> None:
    good = make_file(tmp_path / "A" / "good.avi", seed=1, **SMALL_FILE)
    make_file(tmp_path / "A" / "-dash.avi", seed=2, **SMALL_FILE)
    make_file(tmp_path / "A" / "short.avi", seed=3, num_frames=4, height=16, width=24)
    make_file(tmp_path / "A" / "large.avi", seed=4, num_frames=6, height=64, width=64)
    half = make_file(tmp_path / "A" / "half.avi", seed=5, num_frames=40, height=48, width=48)
    half.write_bytes(half.read_bytes()[: half.stat().st_size * 3 // 4])
    (tmp_path / "A" / "twin.avi").write_bytes(good.read_bytes())
    (tmp_path / "A" / "empty.avi").touch()
    (tmp_path / "A" / "zeros.avi").write_bytes(bytes(5000))
    (tmp_path / "A" / "text.mp4").write_text("hello " * 100)
    (tmp_path / "A" / "header.avi").write_bytes(good.read_bytes()[:200])
    make_file(tmp_path / "outside.avi", seed=6, **SMALL_FILE)
    index = index_of(tmp_path, max_frame_pixels=48 * 48)
    accepted = {entry.path: entry.num_frames for entry in index.entries}
    assert accepted.keys() == {"A/good.avi", "A/-dash.avi", "A/half.avi"}
    assert accepted["A/good.avi"] == 6 and 5 <= accepted["A/half.avi"] < 30  # its header says 40
    reasons = dict(index.rejected)
    assert reasons["A/short.avi"].startswith("too short: 4 frames") and reasons["A/large.avi"].startswith("oversized")
    assert reasons["A/twin.avi"] == "duplicate of A/good.avi" and "empty" in reasons["A/empty.avi"]
    assert reasons["outside.avi"] == "lies outside the class folders"
    assert len(reasons) == 8 and all(reasons.values())


def test_too_many_pixels_in_the_file_are_oversized(tmp_path, make_file) -> None:
    make_file(tmp_path / "a.avi", num_frames=5, height=16, width=16)
    make_file(tmp_path / "b.avi", num_frames=9, height=16, width=16)
    index = index_of(tmp_path, max_file_pixels=16 * 16 * 8)
    assert [entry.path for entry in index.entries] == ["a.avi"] and index.rejected[0][1].startswith("oversized")
    assert "more pixels than data.max_file_pixels" in index.rejected[0][1], "a person is told what to set"


def test_nothing_to_train_on_is_an_error(tmp_path, make_file) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        index_of(tmp_path / "absent")
    with pytest.raises(ValueError, match="no file that could be a video"):
        index_of(tmp_path)
    make_file(tmp_path / "a.avi", num_frames=2, height=16, width=16)
    with pytest.raises(ValueError, match="a.avi.*short"):
        index_of(tmp_path)


def test_index_survives_saving_and_moving_and_notices_edits(ucf_tree, tmp_path) -> None:
    index = index_of(ucf_tree)
    index.save(tmp_path / "index.json")
    assert ClipIndex.load(tmp_path / "index.json") == index
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    loaded = ClipIndex.load(moved / "index.json")
    assert loaded.root == moved / "videos" and loaded.fingerprint == index.fingerprint
    content = json.loads((moved / "index.json").read_text())
    content["entries"][0]["label"] = 1
    (moved / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="edited by hand"):
        ClipIndex.load(moved / "index.json")
    (moved / "index.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        ClipIndex.load(moved / "index.json")
    with pytest.raises(ValueError, match="prepare_data"):
        ClipIndex.load(moved / "absent.json")


def test_fingerprint_follows_content_and_split(ucf_tree, make_file) -> None:
    index = index_of(ucf_tree)
    assert index_of(ucf_tree, validation_fraction=0.6).fingerprint != index.fingerprint
    make_file(ucf_tree / "Run" / "v_Run_g01_c01.avi", seed=99, **SMALL_FILE)
    assert index_of(ucf_tree).fingerprint != index.fingerprint


def test_second_index_uses_the_remembered_checks(ucf_tree, tmp_path, make_file) -> None:
    cache, config = tmp_path / "checked.jsonl", DataConfig(root=str(ucf_tree), **TINY)
    index = build_index(config, 0, cache)
    lines = cache.read_text().splitlines()
    assert len(lines) == 12
    cache.write_text("\n".join(lines[:7]) + "\n" + lines[7][:20])  # a killed run leaves a part of a line
    assert build_index(config, 0, cache) == index
    before = len(cache.read_text().splitlines())
    started = time.monotonic()
    assert build_index(config, 0, cache) == index
    assert time.monotonic() - started < 0.5  # starting a worker takes longer
    make_file(ucf_tree / "Run" / "v_Run_g01_c01.avi", seed=99, **SMALL_FILE)
    assert build_index(config, 0, cache) != index
    assert len(cache.read_text().splitlines()) == before + 1


ACCEPTED_BROKEN = {
    # path: (frames, width, height)
    "av1-clearkey-cbcs-video.mp4": (24, 160, 90),
    "av1_video.mkv": (125, 640, 360),
    "bt709_full_range.mp4": (30, 1280, 720),
    "clip1024.flv": (174, 112, 80),
    "concat.mp4": (28, 100, 50),
    "example_mask.mp4": (300, 200, 200),
    "h264_10bits.mp4": (30, 200, 200),
    "no_duration.webm": (74, 1280, 720),
    "v_Fencing_g04_c04_grayscale.mp4": (20, 320, 240),
    "var_fps_video.mp4": (300, 128, 128),
    "video_with_failing_audio.mp4": (280, 640, 360),
    "white.mp4": (300, 320, 240),
}


def test_hostile_files_end_in_a_clip_or_a_reason(real_clips) -> None:
    started = time.monotonic()
    index = build_index(DataConfig(root=str(real_clips / "broken")), seed=0)
    assert time.monotonic() - started < 50
    assert {e.path: (e.num_frames, e.width, e.height) for e in index.entries} == ACCEPTED_BROKEN
    files = {path.name for path in (real_clips / "broken").iterdir()}
    assert set(dict(index.rejected)) == files - set(ACCEPTED_BROKEN) and all(dict(index.rejected).values())


names = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 4), st.integers(0, 2)), max_size=20, unique=True)


@settings(deadline=None, max_examples=100)
@given(names=names, fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9]), seed=st.integers(0, 5))
def test_seeded_splits(names, fraction: float, seed: int) -> None:
    files = [VideoFile(f"{c}/v_{c}_g{g}_c{k}.avi", c, "", group_of(f"v_{c}_g{g}_c{k}.avi")) for c, g, k in names]
    result = assign_splits(files, fraction, seed)
    assert [file.path for file in result] == [file.path for file in files]
    train, validation = ({f.group for f in result if f.split == side} for side in ("train", "validation"))
    assert not train & validation and train | validation == {file.group for file in files}
    assert bool(train) == bool(files)
    assert bool(validation) == (fraction > 0 and len({file.group for file in files}) > 1)
    assert assign_splits(list(reversed(files)), fraction, seed) == list(reversed(result))


def test_given_splits_are_kept(tmp_path) -> None:
    files = [VideoFile("a", "A", "validation", "a"), VideoFile("b", "A", "train", "b")]
    assert assign_splits(files, 0.5, 0) == files


def test_inventory_refuses_an_empty_root() -> None:
    with pytest.raises(ValueError, match="data.root"):
        take_inventory(DataConfig())


@pytest.mark.parametrize(
    "options", [{"num_frames": 0}, {"frame_stride": 0}, {"validation_fraction": 1.0}, {"split_number": 4}]
)
def test_impossible_options_are_refused(options) -> None:
    with pytest.raises(ValueError, match=f"data.{next(iter(options))}"):
        DataConfig(**options)
