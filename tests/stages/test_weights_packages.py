"""weights: out of source packages, by the user's pip from a folder; what is wrong is refused and leaves nothing."""

import importlib.metadata
import json
import os
import pickle
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_weights import (
    FILE,
    LINK_FILE,
    LINKED,
    MEMBER,
    SETUP,
    left_in,
    local_web,
    made_package,
    made_tensors,
    made_tree,
    only_packages_in,
    package_of,
    source_of,
    write_archive,
)
from safetensors import safe_open
from safetensors.torch import load_file

from pipelines.parts.weights.fetch import fetch
from pipelines.parts.weights.packages import convert, read_member
from pipelines.parts.weights.sources import Source


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for packages."""
    return only_packages_in(tmp_path / "packages", monkeypatch)


def refused(source: Source, folder: Path) -> str:
    """The sentence with which the file is refused; the folder is empty then."""
    with pytest.raises(ValueError) as error:
        fetch(source, folder, "")
    assert left_in(folder) == set() and "\n" not in str(error.value)
    return str(error.value)


def as_numpy_1(content: bytes) -> bytes:
    """A pickle of an early protocol as older numpy writes it: one module had another name."""
    assert content.count(b"numpy._core.multiarray\n") == 1
    return content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


PICKLES = {
    "protocol 2": lambda tree: pickle.dumps(tree, protocol=2),
    "protocol 3, numpy 1": lambda tree: as_numpy_1(pickle.dumps(tree, protocol=3)),
    "protocol 4": lambda tree: pickle.dumps(tree, protocol=4),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_package_becomes_a_file_of_tensors(tmp_path: Path, packages: Path, kind: str) -> None:
    package = made_package(packages, PICKLES[kind](made_tree()))
    path = fetch(source_of(package), tmp_path / "a" / "weights", "")
    assert left_in(path.parent) == {FILE} == {path.name}
    tensors, expected = load_file(path), made_tensors(made_tree())
    assert tensors.keys() == expected.keys() and all((tensors[name] == expected[name]).all() for name in tensors)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["source"])
    assert about == {
        "package": "made-weights==0.0.1",
        "archive_sha256": package.sha256,
        "file": MEMBER,
        "file_sha256": package.member_sha256,
        "license": "made, no rights reserved",
    }
    with pytest.raises(importlib.metadata.PackageNotFoundError):  # it is not installed
        importlib.metadata.version("made-weights")
    for archive in packages.iterdir():
        archive.unlink()
    assert fetch(source_of(package), path.parent, "") == path, "a second call needs no package"


def test_pip_opens_the_archive_only_when_its_hash_is_known(tmp_path: Path, packages: Path) -> None:
    """It runs the setup.py of a source package, so that of a tampered one must not run."""
    ran = tmp_path / "ran"
    setup = f"open({str(ran)!r}, 'w').close()\n{SETUP}"
    package = made_package(packages, setup=setup)
    archive = next(packages.iterdir())
    content = archive.read_bytes()
    wrong = bytearray(content)
    wrong[4] ^= 1  # in the time of the gzip header: what is inside stays whole
    archive.write_bytes(wrong)
    said = refused(source_of(package), tmp_path / "weights")
    assert "pip has not fetched made-weights==0.0.1 (THESE PACKAGES DO NOT MATCH THE HASHES" in said
    assert not ran.exists()
    archive.write_bytes(content)
    assert fetch(source_of(package), tmp_path / "weights", "").name == FILE
    assert ran.exists()


def flipped(content: bytes) -> bytes:
    """One bit of one number differs."""
    array = made_tree()["AlexNet_0"]["Conv_2"]["kernel"].tobytes()
    place = content.index(array) + 5
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_another_file_inside_is_refused(tmp_path: Path, packages: Path) -> None:
    """In an archive whose hash is known: a wrong byte, another size, no such file."""
    whole = pickle.dumps(made_tree(), protocol=4)
    hashed, other_name = sha256(whole).hexdigest(), MEMBER.replace("alexnet", "other")
    cases = {
        f"{MEMBER} in made_weights-0.0.1.tar.gz has another SHA-256 than {hashed}": (flipped(whole), MEMBER),
        f"from made_weights-0.0.1.tar.gz (it has {len(whole) + 1} bytes, expected {len(whole)})": (
            whole + b".",
            MEMBER,
        ),
        f"{MEMBER} cannot be read from made_weights-0.0.1.tar.gz (\"filename '{MEMBER}' not": (whole, other_name),
    }
    for message, (content, member) in cases.items():
        package = package_of(write_archive(packages, content, member=member), whole)
        assert message in refused(source_of(package), tmp_path / "weights")


def test_other_numbers_than_the_known_ones_are_refused(tmp_path: Path, packages: Path) -> None:
    """Should a converter change, or the table of hashes: the file that it makes is looked at, too."""
    package = made_package(packages, flipped(pickle.dumps(made_tree(), protocol=4)))
    said = refused(source_of(package), tmp_path / "weights")
    assert "what arrived is cut short or another file than made.safetensors (tensors hash " in said


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.function, self.arguments


def with_leaf(leaf: Any) -> dict[str, Any]:
    tree = made_tree()
    tree["AlexNet_0"]["Conv_1"]["bias"] = leaf
    return tree


CONTENTS = {
    "os.system": (lambda made: with_leaf(Call(os.system, f"touch {made}")), "it names posix.system"),
    "eval": (lambda made: with_leaf(Call(eval, f"open({str(made)!r}, 'w')")), "it names builtins.eval"),
    "open": (lambda made: Call(open, str(made), "w"), "io.open, which arrays do not need"),
    "numpy.save": (lambda made: with_leaf(Call(np.save, str(made), 1)), "it names numpy.save"),
    "an attribute": (lambda made: with_leaf(Call(np.ndarray.tofile, np.zeros(3), str(made))), "it names "),
    "objects": (lambda made: with_leaf(np.array([None, 1], dtype=object)), "it holds ndarray besides"),
    "objects that call": (
        lambda made: with_leaf(np.array([Call(os.system, f"touch {made}")], dtype=object)),
        "it names posix.system",
    ),
    "float64": (lambda made: with_leaf(np.zeros(2)), "it holds ndarray besides dictionaries of float32 arrays"),
    "a number": (lambda made: with_leaf(1.0), "it holds float besides"),
    "a list": (lambda made: [made_tree()], "it holds list besides"),
    "none of the networks": (lambda made: {"ResNet_0": {}}, "it has none of VGG16_0, AlexNet_0"),
    "an array less": (lambda made: with_leaf({}), "it has no array AlexNet_0/Conv_1/bias"),
    "protocol 5": (lambda made: None, "it names numpy._core.numeric._frombuffer"),
    "nothing": (lambda made: None, "it is no pickle of arrays"),
    "half": (lambda made: None, "it is no pickle of arrays"),
}
BYTES = {
    "protocol 5": pickle.dumps(made_tree(), protocol=5),
    "nothing": b"",
    "half": pickle.dumps(made_tree(), protocol=4)[:200],
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_tree_of_arrays_is_refused_and_nothing_of_it_runs(tmp_path: Path, packages: Path, kind: str) -> None:
    """Even where every hash is the known one."""
    made = tmp_path / "made"
    content_of, message = CONTENTS[kind]
    content = BYTES[kind] if kind in BYTES else pickle.dumps(content_of(made), protocol=4)
    package = made_package(packages, content)
    if kind in ("os.system", "objects", "float64"):  # all the way, which takes a call of pip
        said = refused(source_of(package), tmp_path / "weights")
    else:
        with pytest.raises(ValueError) as error:
            convert(read_member(next(packages.iterdir()), package), package)
        said = str(error.value)
    assert said.startswith(f"{MEMBER} is not what it should be: ") and message in said and "\n" not in said
    assert not made.exists()


def test_the_calls_of_these_pickles_work_where_pickles_are_run(tmp_path: Path) -> None:
    for number, kind in enumerate(("os.system", "numpy.save", "objects that call", "an attribute")):
        made = tmp_path / f"{number}.npy"
        pickle.loads(pickle.dumps(CONTENTS[kind][0](made), protocol=4))
        assert made.exists(), kind


def test_without_a_network_it_says_what_to_bring_and_then_takes_it(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, folder = made_package(packages), tmp_path / "weights"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    said = refused(source_of(package, "http://127.0.0.1:9/made.pth"), folder)
    assert said.startswith("pip has not fetched made-weights==0.0.1 (No matching distribution found")
    assert f"by hand: let pip find the source package made-weights==0.0.1 ({package.archive_bytes} bytes, " in said
    assert f"SHA-256 {package.sha256}) by PIP_FIND_LINKS=FOLDER and call this command again" in said
    assert "or put http://127.0.0.1:9/made.pth (about 7 MB, SHA-256 begins with " in said
    assert said.endswith(f") at {folder / LINK_FILE}")
    (folder / ".fetching-killed").mkdir(parents=True, exist_ok=True)  # what a killed call leaves
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    assert fetch(source_of(package), folder, "") == folder / FILE
    assert not (folder / ".fetching-killed").exists()


def test_an_index_that_cannot_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    said = refused(source_of(made_package(tmp_path / "elsewhere")), tmp_path / "weights")
    assert "pip has not fetched made-weights==0.0.1 (" in said and "by hand: " in said


def test_the_link_is_taken_where_the_package_cannot_be_had(
    tmp_path: Path, packages: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    package = made_package(tmp_path / "elsewhere")
    with local_web() as web:
        path = fetch(source_of(package, f"{web.url}/file"), tmp_path / "weights", "")
        assert path.name == LINK_FILE and path.read_bytes() == LINKED
        made_package(packages)
        assert fetch(source_of(package, f"{web.url}/file"), path.parent, "") == path, "it serves as well"
    assert left_in(path.parent) == {LINK_FILE} and len(web.requests) == 1


def test_a_setup_that_fails_and_a_python_without_pip_are_said(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = made_package(packages, setup="import no_such_module\n")
    said = refused(source_of(package), tmp_path / "weights")
    assert "pip has not fetched made-weights==0.0.1 (ModuleNotFoundError: No module named 'no_such_module')" in said
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "pip cannot be started (No such file or directory)" in refused(source_of(package), tmp_path / "weights")


def test_a_full_disk_leaves_nothing_and_then_the_same_call_goes_on(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary file leads to the device that is always full."""
    source, folder = source_of(made_package(packages)), tmp_path / "weights"
    folder.mkdir()
    (folder / f".{os.getpid()}-{FILE}").symlink_to("/dev/full")
    said = refused(source, folder)
    assert "cannot be written (No space left on device): make room there, or set weights.folder= to another" in said
    assert fetch(source, folder, "") == folder / FILE and left_in(folder) == {FILE}
    (tmp_path / "file").touch()
    said = refused(source, tmp_path / "file" / "weights")
    assert f"{tmp_path / 'file' / 'weights'} cannot be written (Not a directory)" in said
