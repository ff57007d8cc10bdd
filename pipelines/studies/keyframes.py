"""What more keyframes do at a scene cut and at the borders of GOPs, on real clips: docs/results/keyframes.json, by run.

python pipelines/studies/keyframes.py CONFIG.yaml vae.init_from=MODEL data.root=FOLDER [key=value ...]

A cut: frames 0..8 of one held-out file, then frames 9..16 of another, for every pair of files. A border: held-out files
of 51 frames or more in GOPs of 17 frames.
"""

import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

import torch

from pipelines.data.clip_dataset import ResizedFiles, crop
from pipelines.data.video_file import to_float
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.run.config import load_config
from pipelines.run.folder import git_commit, write_json
from pipelines.run.hashes import hash_folder
from vae.keyframe_placement import GopConfig
from vae.registry import load_autoencoder
from vae.streaming import component_stream, latent_values

ROOT = Path(__file__).resolve().parents[2]
CUT, LENGTH, GOP_FRAMES, NUM_GOPS = 9, 17, 17, 3


def main(arguments: list[str]) -> None:
    config = load_config(Experiment, arguments, ROOT / "configs" / "studies" / "ablation_64.yaml")
    path = resolve_model(config.vae.init_from, Path(), "train_vae", "last")
    model, index = load_autoencoder(path), open_index(config)
    files = ResizedFiles(index, config.data)
    clips = {}
    for entry in index.split("validation"):
        frames = files.frames(entry, range(min(entry.num_frames, GOP_FRAMES * NUM_GOPS)))
        clips[entry.path] = to_float(crop(frames, config.data.resolution, 0.5, 0.5)).unsqueeze(0)
    file = ROOT / "docs" / "results" / "keyframes.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    result: dict = {
        "latent_channels": asdict(model.architecture.latent_channels),
        "cuts": summarise_cuts([cut(model, clips, *pair) for pair in itertools.permutations(clips, 2)]),
        "borders": summarise_borders([b for name, clip in clips.items() if (b := borders(model, name, clip))]),
        "model": hash_folder(path),
        "data": index.fingerprint,
        "git_commit": git_commit(),
    }
    content[config.run.name] = result
    write_json(file, content)
    print(json.dumps({name: {k: v for k, v in result[name].items() if k != "all"} for name in ("cuts", "borders")}))


def frame_psnr(model, clip, gop) -> tuple[torch.Tensor, list[int]]:
    """PSNR of every frame in dB, (t,), and the frames that are keyframes."""
    errors, starts = [], []
    for piece in component_stream(model, [clip], gop):
        difference = piece.components["reconstruction"].clamp(-1, 1) - piece.components["original"]
        errors.append(difference.square().mean(dim=(0, 1, 3, 4)))
        starts.append(piece.gop_start)
    return 10 * torch.log10(4 / torch.cat(errors).clamp_min(1e-10)), sorted(set(starts))


def cut(model, clips, first: str, second: str) -> dict:
    """Frames of `second` after a cut from `first`, in one GOP and with adaptive keyframes."""
    joined = torch.cat([clips[first][:, :, :CUT], clips[second][:, :, CUT:LENGTH]], dim=2)
    one, _ = frame_psnr(model, joined, GopConfig())
    adaptive, starts = frame_psnr(model, joined, GopConfig(adaptive=True))
    lengths = [end - start for start, end in itertools.pairwise([*starts, LENGTH])]
    size = joined.shape[-2:]
    extra = latent_values(model, lengths, size) - latent_values(model, [LENGTH], size)
    gain = float(adaptive[CUT:].mean() - one[CUT:].mean())
    return {"clips": [first, second], "gain_db": gain, "keyframes": starts, "extra_latents": extra}


def summarise_cuts(results: list[dict]) -> dict:
    gains = sorted(result["gain_db"] for result in results)
    return {
        "pairs": len(results),
        "cut_found": fmean(CUT in result["keyframes"] for result in results),
        "gain_db_median": median(gains),
        "gain_db_10_percent": gains[len(gains) // 10],
        "share_of_3_db": fmean(gain >= 3 for gain in gains),
        "extra_latents_median": median(result["extra_latents"] for result in results),
        "all": results,
    }


def borders(model, name: str, clip: torch.Tensor) -> dict | None:
    """The two frames around each border of GOPs of 17 frames, minus the clip's mean PSNR, in dB."""
    if clip.shape[2] < GOP_FRAMES * NUM_GOPS:
        return None
    psnr, starts = frame_psnr(model, clip, GopConfig(max_frames=GOP_FRAMES))
    mean = psnr.mean()
    before, after = ([float(psnr[start + side] - mean) for start in starts[1:]] for side in (-1, 0))
    return {"clip": name, "mean_psnr": float(mean), "last_frame": before, "keyframe": after}


def summarise_borders(results: list[dict]) -> dict:
    last = [value for result in results for value in result["last_frame"]]
    key = [value for result in results for value in result["keyframe"]]
    return {
        "borders": len(last),
        "last_frame_minus_mean_db": [min(last), median(last), max(last)],
        "keyframe_minus_mean_db": [min(key), median(key), max(key)],
        "share_within_1_db": fmean(abs(value) <= 1 for value in last + key),
        "share_at_most_1_db_below": fmean(value >= -1 for value in last + key),
        "all": results,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
