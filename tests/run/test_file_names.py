"""Labels become parts of file names: never a path, never too long, two labels never one name."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.run.file_names import file_name


@pytest.mark.parametrize("label", ["Run", "JumpingJack", "v_1.2", "走る", "a+b", "002", "Playing_Guitar-2"])
def test_a_plain_label_stays(label: str) -> None:
    assert file_name(label) == label


@pytest.mark.parametrize(
    "label", ["../../../escaped", "/etc/passwd", ".", "..", "", "a/b", "a\\b", "nul\0", ".hidden", "x" * 500, "é" * 200]
)
def test_anything_else_is_made_safe(label: str, tmp_path) -> None:
    name = file_name(label)
    (tmp_path / f"00000-{name}.mp4").write_text("")
    (tmp_path / name).mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"00000-{name}.mp4", name])


@given(st.text(max_size=300), st.text(max_size=300))
def test_two_labels_have_two_names(first: str, second: str) -> None:
    names = file_name(first), file_name(second)
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        assert name not in ("", ".", "..") and not {"/", "\0", "\n"} & set(name) and len(os.fsencode(name)) < 80
