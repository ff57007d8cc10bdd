"""Files of pretrained networks that scores and losses use: their names, what they must hold, reading them.

None of the readers can run code. `python pipelines/weights.py NAME` fetches the files.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

# What a file is for, by the name that pipelines/weights.py knows -> names it may have; the first is preferred.
FILES = {
    "i3d": ("i3d_kinetics400.safetensors",),
    "i3d-torchscript": ("i3d_torchscript.pt",),
    "i3d-videogpt": ("i3d_pretrained_400.pt",),
    "vgg16": ("vgg16.safetensors", "vgg16-397923af.pth"),
    "alexnet": ("alexnet.safetensors", "alexnet-owt-7be5be79.pth"),
    "inception": ("inception_v3_google-0cc3c7bd.pth",),
}
# File -> how its content is hashed, and the hash or its first digits. git-blob: SHA-1 as git hashes a file, agreed on
# by two repositories that carry them; sha256: of the file, torchvision puts the first digits into its names; tensors:
# `hash_tensors` of what pipelines/weights.py writes.
KNOWN_CONTENT = {
    "i3d_kinetics400.safetensors": ("tensors", "0dd31a0d5a81814d5aa2ba8407ab70b3a1de5aebdd9f4f527ec4d1a040f300d9"),
    "vgg16.safetensors": ("tensors", "461dbd04e503516e496eecc969d40548b096ba63f8a5f4eb0a15941f8aadc796"),
    "alexnet.safetensors": ("tensors", "dad556f11d2a50ed4dc90e8eebf7ef8d3494e51dc5dda06d7972984533778242"),
    "i3d_torchscript.pt": ("git-blob", "93daef59c7ae0e9e8f76225521407e60cbafa6aa"),
    "i3d_pretrained_400.pt": ("git-blob", "a867b87ac3a9097d200598b1d48a1b890d8ec744"),
    "vgg16-397923af.pth": ("sha256", "397923af"),
    "alexnet-owt-7be5be79.pth": ("sha256", "7be5be79"),
    "inception_v3_google-0cc3c7bd.pth": ("sha256", "0cc3c7bd"),
    "ssf2020-mse-9-e89345c4.pth.tar": ("sha256", "e89345c4"),
}


def find_weights(folder: str | Path, name: str) -> Path | None:
    """The file of `name`, a key of FILES, in `folder`; None where it is not there."""
    return next((path for file in FILES[name] if (path := Path(folder) / file).is_file()), None)


def how_to_fetch(name: str, folder: str | Path) -> str:
    """The command that puts the file of `name` into `folder`."""
    where = "" if str(folder) == "weights" else f" weights.folder={folder}"
    return f"python pipelines/weights.py {name}{where}"


def content_hash(path: Path, name: str = "") -> str:
    """The hash of a file by the way that its name in KNOWN_CONTENT asks for; SHA-256 for other names.

    name: the name that the file will have, where that is not its present one.
    """
    kind, _ = KNOWN_CONTENT.get(name or path.name, ("sha256", ""))
    if kind == "tensors":
        return hash_tensors(read_tensors(path))
    if kind == "git-blob":
        return _hash_bytes(path, hashlib.sha1(f"blob {path.stat().st_size}\0".encode()))
    return _hash_bytes(path, hashlib.sha256())


def difference(got: str, name: str) -> str:
    """How the `content_hash` of a file differs from the one known by its name; "" where it does not."""
    kind, expected = KNOWN_CONTENT.get(name, ("", ""))
    return "" if got.startswith(expected) else f"{kind} hash {got[:16]}, expected {expected[:16]}"


def checked_hash(path: Path) -> str:
    """`content_hash` of a file. ValueError where its name is known and the content is another."""
    got = content_hash(path)
    if differs := difference(got, path.name):
        raise ValueError(f"{path} is cut short or another file ({differs}): remove it, and fetch it again")
    return got


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names: the same however they are stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a state dict that torch wrote. ValueError for anything else."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it holds something else")
        return state
    except Exception as error:  # every reader fails in its own way on a file that is something else
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} cannot be read as a file of tensors ({reason}): remove it, and fetch it again"
        ) from error


def _hash_bytes(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
