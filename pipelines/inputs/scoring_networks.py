"""The networks that score, loaded by the options of an experiment; I3D is checked against a golden value."""

import sys

import torch
from torch import nn

from pipelines.inputs.experiment import Experiment
from pipelines.metrics.i3d_self_check import GOLDEN, self_check
from pipelines.metrics.i3d_weights import FeatureExtractor, absent_weights, load_i3d
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES, load_lpips
from pipelines.metrics.weight_files import find_weights
from pipelines.run.ranks import connect


def open_extractor(config: Experiment, preferred: str = "") -> FeatureExtractor:
    """I3D from weights.folder, or its proxy where it is not there, which is said; weights pass a self-check first.

    preferred: the file that a protocol wants, where several are there. ValueError for a wrong file or a failed check.
    """
    options, ranks, folder = config.evaluate, connect(config.run.device), config.weights.folder
    extractor = load_i3d(folder, options.i3d_precision, options.i3d_batch_size, ranks.device, preferred)
    if extractor.is_proxy:
        if ranks.is_main_process:
            print(f"I3D: {absent_weights(folder)}", file=sys.stderr)
        return extractor
    in_fp32 = extractor
    if extractor.precision != "fp32":
        in_fp32 = load_i3d(folder, "fp32", options.i3d_batch_size, ranks.device, preferred)
    self_check(in_fp32, GOLDEN[extractor.weights_file])
    return extractor


def open_lpips(config: Experiment, device: torch.device) -> nn.Module | None:
    """LPIPS on evaluate.lpips_network, None where its file is not in weights.folder."""
    network = config.evaluate.lpips_network
    if find_weights(config.weights.folder, LPIPS_BACKBONES[network]) is None:
        return None
    return load_lpips(config.weights.folder, network).to(device)
