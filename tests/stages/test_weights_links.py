"""weights: from links, over a server on this machine that cuts, stalls, refuses and knows no parts of files."""

import fcntl
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_weights import FILE, LINK_FILE, LINKED, Web, left_in, local_web, make_known, source_of

from pipelines.parts.weights import downloads
from pipelines.parts.weights.fetch import fetch, present_file

PART = f".{LINK_FILE}.part"
HALF = len(LINKED) // 2


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The server that the link leads to; no proxy stands between."""
    make_known(monkeypatch)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first call
    with local_web() as web:
        yield web


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def get(web: Web, folder: Path, mirror: str = "") -> Path:
    return fetch(source_of(url=f"{web.url}/made"), folder, mirror)


def refused(web: Web, folder: Path, left: set[str]) -> str:
    """The sentence with which the file is refused, and what may be left of it."""
    with pytest.raises(ValueError) as error:
        get(web, folder)
    assert left_in(folder) == left and "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_fetched_once(web: Web, folder: Path) -> None:
    path = get(web, folder)
    assert path == folder / LINK_FILE and path.read_bytes() == LINKED and left_in(folder) == {LINK_FILE}
    assert get(web, folder) == path == present_file(source_of(url=web.url), folder)
    assert web.requests == [("/made", "")], "a second call asks nobody"


def test_a_cut_connection_goes_on_where_it_was_cut(web: Web, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    web.cuts = [HALF]
    assert get(web, folder).read_bytes() == LINKED and left_in(folder) == {LINK_FILE}
    assert web.requests == [("/made", ""), ("/made", f"bytes={HALF}-")]
    assert "made-link.pth: the connection was cut, attempt 1 of 3" in capfd.readouterr().err


def test_a_second_call_goes_on_with_what_the_first_has_left(web: Web, folder: Path) -> None:
    web.cuts = [100, 100, 100]
    said = refused(web, folder, {PART})
    assert said.startswith("127.0.0.1 does not give made-link.pth (the connection was cut); by hand: put ")
    assert (folder / PART).read_bytes() == LINKED[:300]
    assert get(web, folder).read_bytes() == LINKED and left_in(folder) == {LINK_FILE}
    assert web.requests[-1] == ("/made", "bytes=300-") and len(web.requests) == 4


def test_without_ranges_it_begins_anew(web: Web, folder: Path) -> None:
    web.cuts, web.has_ranges = [HALF], False
    assert get(web, folder).read_bytes() == LINKED and left_in(folder) == {LINK_FILE}
    assert [asked for _, asked in web.requests] == ["", f"bytes={HALF}-"]


@pytest.mark.parametrize("found", [LINKED, LINKED + b"more"])
def test_a_part_as_long_as_the_file_is_fetched_anew(web: Web, folder: Path, found: bytes) -> None:
    """Left by a process that was killed before it gave it its name."""
    folder.mkdir()
    (folder / PART).write_bytes(found)
    assert get(web, folder).read_bytes() == LINKED and left_in(folder) == {LINK_FILE}
    assert [asked for _, asked in web.requests] == [f"bytes={len(found)}-", ""]


def test_another_content_is_refused_and_removed(web: Web, folder: Path) -> None:
    """An error page, a file of the same length, and a whole that is put together of two different files."""
    for content in (b"<html>please log in</html>", LINKED[:-1] + b"x"):
        web.content = content
        said = refused(web, folder, set())
        assert said.startswith("what arrived is cut short or another file than made-link.pth (sha256 hash ")
    folder.joinpath(PART).write_bytes(b"x" * HALF)
    web.content = LINKED
    assert "what arrived is cut short or another file" in refused(web, folder, set())
    assert get(web, folder).read_bytes() == LINKED, "the same call again begins anew"


@pytest.mark.parametrize("status", [403, 404, 416, 500])
def test_a_server_that_refuses_is_asked_once(web: Web, folder: Path, status: int) -> None:
    web.status = status
    said = refused(web, folder, set())
    assert said.startswith("127.0.0.1 does not give made-link.pth (") and len(web.requests) == 1
    assert f"; by hand: put {web.url}/made (about 7 MB, SHA-256 begins with " in said
    assert said.endswith(f") at {folder / LINK_FILE}")


def test_a_port_that_nobody_listens_to_is_said_at_once(web: Web, folder: Path) -> None:
    with local_web() as gone:
        pass
    with pytest.raises(
        ValueError, match=r"127.0.0.1 does not give made-link.pth \(.*Connection refused.*by hand: put "
    ):
        get(gone, folder)
    assert left_in(folder) == set()


def test_a_server_that_falls_silent_is_given_up(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SECONDS_WITHOUT_DATA", 0.1)
    web.stall = threading.Event()
    said = refused(web, folder, set())
    web.stall.set()
    assert "timed out" in said
    web.stall = None
    assert get(web, folder).read_bytes() == LINKED


def test_a_mirror_stands_for_all_links(web: Web, folder: Path) -> None:
    with local_web() as mirror:
        for end in ("", "/"):
            assert get(web, folder, f"{mirror.url}/models{end}").read_bytes() == LINKED
            (folder / LINK_FILE).unlink()
        assert mirror.requests == [(f"/models/{LINK_FILE}", "")] * 2 and web.requests == []


def test_the_proxy_of_the_environment_is_asked(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    path = fetch(source_of(url="http://weights.invalid/made"), folder, "")
    assert path.read_bytes() == LINKED and web.requests == [("http://weights.invalid/made", "")]


def test_a_full_disk_is_said(web: Web, folder: Path) -> None:
    """The part leads to the device that is always full."""
    folder.mkdir()
    (folder / PART).symlink_to("/dev/full")
    said = refused(web, folder, {PART})
    assert f"{folder} cannot be written (No space left on device): make room there, or set weights.folder=" in said


@pytest.mark.parametrize("name", [FILE, LINK_FILE])
def test_another_file_of_that_name_is_left_and_refused(web: Web, folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).write_bytes(b"somebody's")
    said = refused(web, folder, {name})
    assert said.startswith(f"{folder / name} ") and said.endswith(": remove it, and fetch it again")
    assert (folder / name).read_bytes() == b"somebody's" and web.requests == []


def test_two_at_once_fetch_it_once(web: Web, folder: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(get(web, folder))) for _ in range(4)]
    web.stall = threading.Event()
    for thread in threads:
        thread.start()
    web.stall.set()
    for thread in threads:
        thread.join()
    assert paths == [folder / LINK_FILE] * 4 and web.requests == [("/made", "")]
    assert paths[0].read_bytes() == LINKED and left_in(folder) == {LINK_FILE}


def test_who_waits_says_so_and_takes_what_the_other_has_fetched(
    web: Web, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    paths: list[Path] = []
    waiting = threading.Thread(target=lambda: paths.append(get(web, folder)))
    waiting.start()
    said, deadline = "", time.monotonic() + 30
    while "waiting for another process" not in said and time.monotonic() < deadline:
        said += capfd.readouterr().err
        time.sleep(0.01)
    (folder / LINK_FILE).write_bytes(LINKED)
    os.close(lock)
    waiting.join()
    assert said == f"waiting for another process that fetches into {folder}\n"
    assert paths == [folder / LINK_FILE] and web.requests == []
