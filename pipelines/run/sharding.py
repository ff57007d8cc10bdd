"""Models whose weights are split over the processes (torch's FSDP2), and the whole of what is split.

Everything that is written is whole: a checkpoint of a split model is the checkpoint of a model that is not, and goes on
with any number of processes.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: torch.nn.Module, kind: type[torch.nn.Module], device: torch.device) -> None:
    """Split the weights of `model` over all processes, in place: those of each module of `kind` are put together only
    while it computes, the others while the model does.

    Gradients then come out as means over the processes, split likewise. All processes must hold the same weights.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in model.modules():
        if isinstance(module, kind):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a split tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a split tensor (every process must ask); any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """`tensor`, whole and the same in every process, split as `pattern` is and where that is; else as it is."""
    if not isinstance(pattern, DTensor) or tensor.shape != pattern.shape:
        return tensor
    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None)


def whole_on_cpu(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """Every tensor whole and on the CPU, one after the other; {} where this process does not `keep` them."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu()
    return found


@torch.no_grad()
def load_whole(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """`load_state_dict`, strict, of whole tensors into a module that may be split."""
    own = module.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in own.values()):
        module.load_state_dict(dict(tensors))
        return
    assert own.keys() == tensors.keys(), f"other tensors than the model's: {sorted(own.keys() ^ tensors.keys())}"
    for name, tensor in own.items():
        local(tensor).copy_(local(split_like(tensors[name], tensor)))
