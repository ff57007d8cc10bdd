"""Reads nested dictionaries of numpy arrays out of a pickle, and nothing else: whatever could run code is refused."""

import pickle
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = dict[str, Any]  # of trees and of float32 arrays
try:
    from numpy._core.multiarray import _reconstruct
except ImportError:  # numpy 1
    from numpy.core.multiarray import _reconstruct  # type: ignore[no-redef]
# All that a pickle of arrays needs; numpy 2 moved `_reconstruct`.
HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): __import__("codecs").encode,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Knows the few names in HARMLESS."""

    def find_class(self, module: str, name: str) -> Any:
        """The function or class that the pickle names."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which arrays do not need")
        return HARMLESS[module, name]


def read_tree(content: bytes) -> Tree:
    """The dictionaries and float32 arrays of a pickle. ValueError, in one sentence, for anything else in it."""
    try:
        tree = RestrictedUnpickler(BytesIO(content)).load()
    except Exception as error:  # a broken pickle can fail in any way
        raise ValueError(f"it is no pickle of arrays ({' '.join(str(error).split())[:200]})") from error
    _check(tree)
    return tree


def array_at(tree: Tree, *path: str) -> NDArray[np.float32]:
    """The array behind a path of keys. ValueError where there is none."""
    found: Any = tree
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"it has no array {'/'.join(path)}")
    return found


def _check(tree: Any) -> None:
    if isinstance(tree, dict):
        for branch in tree.values():
            _check(branch)
    elif not isinstance(tree, np.ndarray) or tree.dtype != np.float32:
        raise ValueError(f"it holds {type(tree).__name__} besides dictionaries of float32 arrays")
