"""Files of weights: their hashes against known ones, reading that runs no code, sentences for all else."""

import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.metrics.weight_files import (
    FILES,
    KNOWN_CONTENT,
    checked_hash,
    content_hash,
    find_weights,
    hash_tensors,
    how_to_fetch,
    read_tensors,
)

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7)}


def test_every_file_has_a_known_content() -> None:
    assert {file for files in FILES.values() for file in files} <= KNOWN_CONTENT.keys()
    for file, (kind, digits) in KNOWN_CONTENT.items():
        assert kind in ("sha256", "git-blob", "tensors") and len(digits) == {"git-blob": 40, "tensors": 64}.get(kind, 8)
        assert kind != "sha256" or digits in file, "its publisher puts the first digits into the name"


def test_hashes_are_the_known_ones_of_known_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert content_hash(path, "i3d_torchscript.pt") == "ce013625030ba8dba906f756967f9e9ca394464a", "as git hashes it"
    assert content_hash(path) == sha256(b"hello\n").hexdigest() == content_hash(path, "vgg16-397923af.pth")
    said = [b"a torch.int64 ()\n", (7).to_bytes(8, "little"), b"b torch.float32 (2, 3)\n"]
    digest = sha256(b"".join([*said, TENSORS["b"].numpy().tobytes()])).hexdigest()
    save_file(TENSORS, path, metadata={"source": "somewhere"})
    path = path.rename(tmp_path / "alexnet.safetensors")
    assert content_hash(path) == digest == hash_tensors(dict(reversed(TENSORS.items())))
    assert hash_tensors({**TENSORS, "b": TENSORS["b"].reshape(3, 2)}) != digest
    assert hash_tensors({**TENSORS, "b": TENSORS["b"].t().contiguous().t()}) == digest, "however they are stored"


def test_a_known_name_needs_the_known_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = tmp_path / "vgg16-397923af.pth", tmp_path / "own.pth"
    for path in (known, unknown):
        torch.save(TENSORS, path)
    with pytest.raises(ValueError, match=f"{known} is cut short or another file .sha256 hash .*expected 397923af"):
        checked_hash(known)
    assert checked_hash(unknown) == sha256(unknown.read_bytes()).hexdigest()
    monkeypatch.setitem(KNOWN_CONTENT, known.name, ("sha256", sha256(known.read_bytes()).hexdigest()[:8]))
    assert checked_hash(known) == sha256(known.read_bytes()).hexdigest()


def test_the_preferred_file_is_found_first(tmp_path: Path) -> None:
    assert find_weights(tmp_path, "vgg16") is None and find_weights(tmp_path / "nowhere", "vgg16") is None
    for file in reversed(FILES["vgg16"]):
        (tmp_path / file).touch()
        assert find_weights(str(tmp_path), "vgg16") == tmp_path / file
    assert how_to_fetch("vgg16", "weights") == "python pipelines/weights.py vgg16"
    assert how_to_fetch("i3d", "/a/b") == "python pipelines/weights.py i3d weights.folder=/a/b"


class MakesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_only_tensors_are_read(tmp_path: Path, name: str) -> None:
    path, made = tmp_path / name, tmp_path / "made"
    torch.save(TENSORS, path) if path.suffix == ".pth" else save_file(TENSORS, path)
    assert all(torch.equal(tensor, TENSORS[key]) for key, tensor in read_tensors(path).items())
    whole = path.read_bytes()
    runs_code = pickle.dumps({"a": MakesAFile(made)}, protocol=2)
    for content in (b"", b"an error page", whole[: len(whole) // 2], runs_code):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path} cannot be read as a file of tensors .*remove it") as refused:
            read_tensors(path)
        assert "\n" not in str(refused.value)
    assert not made.exists()
    for other in ([TENSORS["a"]], {"a": TENSORS}, {"a": 1}):
        torch.save(other, path)
        with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
            read_tensors(path)
