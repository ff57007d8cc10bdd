"""Reads a checkpoint of the published Latte (Ma et al. 2024; UCF-101 and the like) into a model of ours.

Names differ, and the patch embedding is a convolution there; the order of values in patches, of channels in heads and
of the six modulation vectors is the same. The two fixed tables of positions are parameters there and constants here:
they are compared. Nothing but tensors is unpickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from latte.fine_tuning import some
from latte.latte import Latte

# What the published architecture is, in our options.
REQUIRED = {
    "attention": "factorised",
    "objective": "epsilon",
    "mlp": "gelu",
    "positions": "sincos",
    "qk_norm": False,
    "early_head": 0,
}
TABLES = {"pos_embed": "patch_positions", "temp_embed": "frame_positions"}
# Averaged weights carry the tables through a product and a sum in every step, which moves their last digits.
TABLE_TOLERANCE = 1e-2
NAMES = {
    "x_embedder.proj": "patch_embeddings.{stream}",
    "t_embedder.mlp.0": "time_embedding.mlp.linear_1",
    "t_embedder.mlp.2": "time_embedding.mlp.linear_2",
    "y_embedder.embedding_table": "label_embedding",
    "final_layer.adaLN_modulation.1": "final_layer.modulation.linear",
    "final_layer.linear": "final_layer.heads.{stream}",
}
BLOCK_NAMES = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.output",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "adaLN_modulation.1": "modulation.linear",
}


def load_official_latte(path: Path, model: Latte) -> None:
    """Fill `model` with the checkpoint's weights, the averaged ones where it has both.

    The file is what torch.save wrote: a state dict, alone or under "ema" or "model". Raises ValueError, naming the
    file, for any other file, for a model of another architecture, and for tensors that are missing, unknown or of
    another shape.
    """
    check_architecture(path, model)
    state = read_state(path)
    names = our_names(model)
    own = model.state_dict()
    missing, unexpected = sorted({*names, *TABLES} - set(state)), sorted(set(state) - {*names, *TABLES})
    if missing or unexpected:
        raise ValueError(
            f"{path} does not hold the tensors of the published Latte with {len(model.blocks)} blocks and "
            f"{model.num_classes} classes (missing: {some(missing) or 'none'}; unknown: {some(unexpected) or 'none'}): "
            "set latte.size and the data set's classes to those of the checkpoint, or give another file."
        )
    converted, wrong = {}, []
    for name, ours in names.items():
        tensor = state[name].float()
        converted[ours] = rearrange(tensor, "d c p q -> d (c p q)") if tensor.ndim == 4 else tensor
        if converted[ours].shape != own[ours].shape:
            wrong.append(f"{name} of {tuple(tensor.shape)} for {tuple(own[ours].shape)}")
        elif not bool(torch.isfinite(tensor).all()):
            wrong.append(f"{name} with values that are not finite")
    for name, ours in TABLES.items():
        table, expected = state[name].float(), model.get_buffer(ours).float().cpu()
        if table.shape != (1, *expected.shape):
            wrong.append(f"{name} of {tuple(table.shape)} for {(1, *expected.shape)}")
        elif not torch.allclose(table[0], expected, atol=TABLE_TOLERANCE):
            wrong.append(f"{name} with other values")
    if wrong:
        raise ValueError(
            f"{path} holds other tensors than the configured model ({some(wrong)}): set latte.size, the latents' "
            "channels, frames and size and the classes to those of the checkpoint."
        )
    model.load_state_dict(converted)


def our_names(model: Latte) -> dict[str, str]:
    """{name in the published model: name in `model`} of all parameters."""
    stream = model.layout.streams[0].name
    modules = {theirs: ours.format(stream=stream) for theirs, ours in NAMES.items()}
    for i in range(len(model.blocks)):
        modules |= {f"blocks.{i}.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in BLOCK_NAMES.items()}
    own = model.state_dict()
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in modules.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in own
    }


def check_architecture(path: Path, model: Latte) -> None:
    """Raise ValueError when the options of `model` are not those of the published architecture."""
    different = {name: value for name, value in REQUIRED.items() if getattr(model.architecture, name) != value}
    if different or len(model.layout.streams) > 1:
        wanted = ", ".join(f"latte.{name}={str(value).lower()}" for name, value in different.items())
        raise ValueError(
            f"{path} fills the published architecture only, with all latents in one stream: set "
            f"{wanted or 'latte.layout=channel'}, or add configs/overlays/latte_parity.yaml."
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint; ValueError when the file is missing or holds anything else."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}: name a checkpoint of the published Latte (.pt).")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes it raise anything, from EOFError to struct.error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors ({reason[:120]}): it is cut short, of another kind, or "
            "holds code; give a file with a state dict."
        ) from error
    for name in ("ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict, neither alone nor under ema or model: give another file.")
    return dict(content)
