"""The networks that score, loaded by the options of `evaluate`; I3D is checked once against golden values."""

import sys
from pathlib import Path

import torch
from torch import nn

from pipelines.inputs.experiment import Experiment
from pipelines.metrics.frame_quality import load_lpips, lpips_available
from pipelines.metrics.i3d_self_check import golden_for, self_check
from pipelines.metrics.i3d_weights import TORCHSCRIPT_FILE, FeatureExtractor, absent_weights, load_i3d
from pipelines.run.folder import write_json
from pipelines.run.ranks import connect, wait

CHECKED = ".i3d_self_check"  # below run.root: what weights have passed


def open_extractor(config: Experiment, preferred: str = TORCHSCRIPT_FILE) -> FeatureExtractor:
    """I3D from evaluate.weights_dir, or its proxy where it is not there, which is said.

    Real weights pass a self-check before they give a score, once per file and value of bn_eps: 256 clips go through.
    preferred: the file that a protocol wants, where both are there. ValueError for a wrong file or a failed check.
    """
    options, ranks = config.evaluate, connect(config.run.device)
    arguments = (options.i3d_batch_size, ranks.device, preferred)
    extractor = load_i3d(options.weights_dir, options.i3d_bn_eps, options.i3d_precision, *arguments)
    if extractor.is_proxy:
        if ranks.is_main_process:
            print(f"I3D: {absent_weights(options.weights_dir, preferred)}", file=sys.stderr)
        return extractor
    record = Path(config.run.root) / CHECKED / f"{extractor.weights_hash}-{extractor.bn_eps}.json"
    if ranks.is_main_process and not record.exists():
        print(f"I3D: checking {extractor.weights_file} against golden values, once", file=sys.stderr)
        in_fp32 = load_i3d(options.weights_dir, options.i3d_bn_eps, "fp32", *arguments)
        measured = self_check(in_fp32, golden_for(extractor.weights_file))
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"weights_file": extractor.weights_file, **measured})
    wait()
    return extractor


def open_lpips(config: Experiment, device: torch.device) -> nn.Module | None:
    """LPIPS on evaluate.lpips_network, None where its file is not in evaluate.weights_dir."""
    options = config.evaluate
    if not lpips_available(options.weights_dir, options.lpips_network):
        return None
    return load_lpips(options.weights_dir, options.lpips_network).to(device)
