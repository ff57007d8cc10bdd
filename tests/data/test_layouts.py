"""How folders, lists and CSVs are read: what is certain is taken, what is not ends in one sentence."""

import os
from pathlib import Path

import pytest

from pipelines.data.data_config import DataConfig
from pipelines.data.split_lists import find_listed, take_inventory


def made(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def read(root: Path, **options: object) -> dict[str, tuple[str, str]]:
    inventory = take_inventory(DataConfig(root=str(root), **options))
    return {file.path: (file.class_name, file.split) for file in inventory.files}


def reasons(root: Path) -> dict[str, str]:
    return dict(take_inventory(DataConfig(root=str(root))).rejected)


# ---------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("listed", "on_disk", "found"),
    [
        (["A/01.mp4", "B/01.mp4"], ["B/01.mp4", "A/02.mp4"], {"B/01.mp4": "B/01.mp4"}),  # of another class, and listed
        (["A/01.mp4"], ["B/01.mp4"], {}),  # of another class
        (["A/01.avi"], ["A/01.mp4"], {"A/01.avi": "A/01.mp4"}),  # re-encoded
        (["A/v_A_g01_c01.avi"], ["v_A_g01_c01.mp4"], {"A/v_A_g01_c01.avi": "v_A_g01_c01.mp4"}),  # in one flat folder
        (["A/01.avi"], ["half/A/01.mp4"], {"A/01.avi": "half/A/01.mp4"}),  # in another folder
        (["A/01.avi"], ["x/A/01.mp4", "y/A/01.mp4"], {}),  # two of them
        (["A/01.avi", "A/01.mov"], ["A/01.mp4"], {}),  # claimed twice
        (["A/01.avi", "B/01.avi"], ["01.mp4"], {}),  # claimed by two classes
        (["A/01.avi", "A/01.mp4"], ["A/01.mp4"], {"A/01.mp4": "A/01.mp4"}),  # listed itself
        (["A/01.avi"], ["A/01.avi", "A/01.mp4"], {"A/01.avi": "A/01.avi"}),
    ],
)
def test_a_stem_stands_in_for_a_file_only_where_that_is_certain(
    listed: list[str], on_disk: list[str], found: dict[str, str]
) -> None:
    assert find_listed(listed, on_disk, ["A", "B"]) == found


def test_two_spellings_of_one_path_are_one_file(tmp_path: Path) -> None:
    root = made(tmp_path / "data", "A/1.mp4", "A/2.mp4")
    (tmp_path / "trainlist01.txt").write_text("A/1.mp4 1\n./A/2.mp4 1\n")
    (tmp_path / "testlist01.txt").write_text("A//1.mp4\n")
    with pytest.raises(ValueError, match="A/1.mp4 stands in the train list and in the test list"):
        read(root, splits=str(tmp_path))


# ---------------------------------------------------------------------- folders


def test_folders_beside_those_of_the_splits_are_left_out_by_name(tmp_path: Path) -> None:
    names = [f"{split}/{name}/{split}-{name}.mp4" for split in ("train", "val") for name in ("a", "b")]
    root = made(tmp_path, *names, "replacement/x.mp4")
    assert read(root) == {
        name: (name.split("/")[1], {"train": "train", "val": "validation"}[name.split("/")[0]]) for name in names
    }
    assert "lies outside the folders train, val" in reasons(root)["replacement/x.mp4"]


def test_a_test_folder_is_for_validation_only_where_nothing_else_is(tmp_path: Path) -> None:
    root = made(tmp_path, "train/a/1.mp4", "test/a/2.mp4")
    assert read(root)["test/a/2.mp4"] == ("a", "validation")
    made(root, "val/a/3.mp4")
    assert read(root).keys() == {"train/a/1.mp4", "val/a/3.mp4"}
    assert "test folder" in reasons(root)["test/a/2.mp4"]


def test_dev_is_a_split(tmp_path: Path) -> None:
    root = made(tmp_path, "train/a/1.mp4", "dev/a/2.mp4")
    assert read(root) == {"train/a/1.mp4": ("a", "train"), "dev/a/2.mp4": ("a", "validation")}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = made(tmp_path, "bus/1.mp4", "car/2.mp4", "train/3.mp4")
    assert {name: of[0] for name, of in read(root).items()} == {
        "bus/1.mp4": "bus",
        "car/2.mp4": "car",
        "train/3.mp4": "train",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a/1.mp4", "other/2.mp4"), "named as splits, train, beside others"),
        (("train/1.mp4", "val/2.mp4", "other/3.mp4"), "named as splits, train, val, beside others"),
        (("videos/a/1.mp4", "videos/b/2.mp4"), "holds one folder, videos, with folders in it"),
        (("part1/a/1.mp4", "part1/b/2.mp4", "part2/a/3.mp4", "part2/b/4.mp4"), "which of them are classes"),
    ],
)
def test_what_can_be_read_in_two_ways_is_asked_back(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(made(tmp_path, *names))


def test_a_name_that_is_no_text_is_rejected_and_named(tmp_path: Path) -> None:
    root = made(tmp_path, "a/1.mp4", "a/2.mp4")
    with open(os.fsencode(root / "a") + b"/caf\xe9.mp4", "wb"):
        pass
    assert read(root).keys() == {"a/1.mp4", "a/2.mp4"}
    assert reasons(root) == {"a/caf\\xe9.mp4": "its name is no text in UTF-8; rename it"}


# ---------------------------------------------------------------------- CSV

CAPTIONS = "".join(f'{number}.mp4,"a person number {number} walks away"\n' for number in range(9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gone/1.mp4,run\ngone/2.mp4,walk\n", r"none of 2 files .* such as gone/1.mp4 \(looked for in"),
        ("0.mp4 0\n1.mp4 1\n", "parted by commas, not by blanks"),
        ("path;label\n0.mp4;run\n", "parted by commas, not by semicolons"),
        ("0.mp4\trun\n1.mp4\twalk\n", "parted by commas, not by tabs"),
        ("label,path\nrun,0.mp4\n", "names the columns label, path: expected path,label"),
        ("video_path,caption\n0.mp4,run\n", "names the columns video_path, caption"),
        ("path,caption\n0.mp4,run\n", "names the columns path, caption"),
        ("0.mp4,run\n./0.mp4,walk\n", "0.mp4 stands there twice"),
        (CAPTIONS, "are captions, no classes"),
    ],
)
def test_a_csv_that_says_something_else_is_refused(text: str, message: str, tmp_path: Path) -> None:
    made(tmp_path, *(f"{number}.mp4" for number in range(9)))
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(table)


def test_sentences_that_files_share_are_classes(tmp_path: Path) -> None:
    made(tmp_path, *(f"{number}.mp4" for number in range(20)))
    table = tmp_path / "list.csv"
    table.write_text("".join(f'{number}.mp4,"Putting something on a surface {number % 9}"\n' for number in range(20)))
    assert len(take_inventory(DataConfig(root=str(table))).classes) == 9


@pytest.mark.parametrize("name", ["a.mp4", "clips.zip"])
def test_a_file_that_is_no_list_is_not_read_as_one(name: str, tmp_path: Path) -> None:
    made(tmp_path, name)
    with pytest.raises(ValueError, match="is a file, but no CSV of path,label"):
        read(tmp_path / name)


# ---------------------------------------------------------------------- what is no data


def test_the_folder_of_the_runs_is_no_data(tmp_path: Path) -> None:
    root = made(tmp_path, "1.mp4", "2.mp4", "runs/mine/sample/x/mp4/00000-a.mp4", "other/3.mp4")
    config = DataConfig(root=str(root))
    assert len(take_inventory(config).files) + len(take_inventory(config).rejected) == 4
    found = take_inventory(config, without=root / "runs")
    assert {file.path for file in found.files} == {"other/3.mp4"} and len(found.rejected) == 2
    (tmp_path / "link").symlink_to(root / "runs")
    assert take_inventory(config, without=root / "runs") == found
