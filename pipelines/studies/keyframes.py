"""What more keyframes do at a scene cut and at the borders of groups of pictures, on real clips.

python -m pipelines.studies.keyframes [study.only=[configs/small_64.yaml]] [study.key=value ...]

A cut: frames 0..8 of one held-out file, then frames 9..16 of another, for every pair of files. A border: held-out files
of 51 frames or more in groups of 17 frames.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from pipelines.data.clip_dataset import ResizedFiles, crop
from pipelines.data.video_file import to_float
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.run.config import load_config
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.clip_sets import FILES, SETS, link_clips
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.experiments import AUTOENCODER_CODE, SMALL, TINY, train_autoencoder
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main
from vae.interface import VideoAutoencoder
from vae.keyframe_placement import GopConfig
from vae.registry import load_autoencoder
from vae.streaming import component_stream, latent_values

MODELS = (SMALL, "configs/studies/ablation_64.yaml")
CUT, LENGTH, GOP_FRAMES, NUM_GOPS = 9, 17, 17, 3
TINY_FILES = 2
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def cases(options: StudySection) -> list[Case]:
    """A case per file of options."""
    return [Case({"model": model, **SETS}, 0) for model in (MODELS[:1] if options.tiny else MODELS)]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Train each model on `learn`, then look at cuts and borders in the files of `test`."""
    link_clips(options, work / "clips")
    for case in waiting:
        file = REPOSITORY / case.arguments["model"]
        run = [f"run.root={work}", f"run.name={file.stem}", f"data.root={work / 'clips' / 'clips.csv'}"]
        # an ablation's base has a section of its own, and is otherwise an experiment
        config = load_config(AblationStudy, [str(file), *run, *(TINY if options.tiny else ())], file)
        train_autoencoder(config)
        yield Measured(case, round_floats(look(config, TINY_FILES if options.tiny else None)))


def look(config: Experiment, num_files: int | None = None) -> dict[str, Any]:
    """Summaries over all pairs of held-out files, or of the first so many, and over all borders."""
    model = load_autoencoder(resolve_model("", run_path(config), "train_vae", "last"))
    clips = dict(list(held_out(config).items())[:num_files])
    gops = NUM_GOPS if max(clip.shape[2] for clip in clips.values()) >= GOP_FRAMES * NUM_GOPS else 1
    found = (borders(model, clip, gops) for clip in clips.values())
    return {
        "latent_channels": asdict(model.architecture.latent_channels),
        "cuts": summarise_cuts([cut(model, clips, *pair) for pair in itertools.permutations(clips, 2)]),
        "borders": summarise_borders([entry for entry in found if entry]),
    }


def held_out(config: Experiment) -> dict[str, Tensor]:
    """{file: its first frames, (1, 3, t, h, w) in [-1, 1]} of the held-out files."""
    index = open_index(config)
    files = ResizedFiles(index, config.data)
    clips = {}
    for entry in index.split("validation"):
        frames = files.frames(entry, range(min(entry.num_frames, GOP_FRAMES * NUM_GOPS)))
        clips[entry.path] = to_float(crop(frames, config.data.resolution, 0.5, 0.5)).unsqueeze(0)
    return clips


def frame_psnr(model: VideoAutoencoder, clip: Tensor, gop: GopConfig) -> tuple[Tensor, list[int]]:
    """PSNR of every frame of `clip` (1, 3, t, h, w) in dB, (t,), and the frames that are keyframes."""
    errors, starts = [], []
    for piece in component_stream(model, [clip], gop):
        difference = piece.components["reconstruction"].clamp(-1, 1) - piece.components["original"]
        errors.append(difference.square().mean(dim=(0, 1, 3, 4)))
        starts.append(piece.gop_start)
    return 10 * torch.log10(4 / torch.cat(errors).clamp_min(1e-10)), sorted(set(starts))


def cut(model: VideoAutoencoder, clips: Mapping[str, Tensor], first: str, second: str) -> dict[str, Any]:
    """Frames of `second` after a cut from `first`, in one group and with adaptive keyframes."""
    joined = torch.cat([clips[first][:, :, :CUT], clips[second][:, :, CUT:LENGTH]], dim=2)
    one, _ = frame_psnr(model, joined, GopConfig())
    adaptive, starts = frame_psnr(model, joined, GopConfig(adaptive=True))
    lengths = [end - start for start, end in itertools.pairwise([*starts, LENGTH])]
    size = (joined.shape[3], joined.shape[4])
    extra = latent_values(model, lengths, size) - latent_values(model, [LENGTH], size)
    return {"gain_db": float(adaptive[CUT:].mean() - one[CUT:].mean()), "keyframes": starts, "extra_latents": extra}


def borders(model: VideoAutoencoder, clip: Tensor, gops: int) -> dict[str, list[float]]:
    """The two frames around each border of `gops` groups, minus the clip's mean PSNR, in dB; {} for a shorter clip."""
    if clip.shape[2] < GOP_FRAMES * gops:
        return {}
    psnr, starts = frame_psnr(model, clip, GopConfig(max_frames=GOP_FRAMES))
    mean = psnr.mean()
    before, after = ([float(psnr[start + side] - mean) for start in starts[1:]] for side in (-1, 0))
    return {"last_frame": before, "keyframe": after}


def summarise_cuts(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all pairs: how many cuts were found, what they gain and cost."""
    gains = [result["gain_db"] for result in results]
    return {
        "pairs": len(results),
        "cut_found": fmean(CUT in result["keyframes"] for result in results),
        "gain_db_quantiles": quantiles(gains),
        "share_of_3_db": fmean(gain >= 3 for gain in gains),
        "extra_latents_median": median(result["extra_latents"] for result in results),
    }


def summarise_borders(results: Sequence[Mapping[str, list[float]]]) -> dict[str, Any]:
    """Of all borders: the frames before and after them against their clips' means."""
    last, key = ([value for result in results for value in result[name]] for name in ("last_frame", "keyframe"))
    return {
        "borders": len(last),
        "last_frame_minus_mean_db_quantiles": quantiles(last),
        "keyframe_minus_mean_db_quantiles": quantiles(key),
        "share_within_1_db": fmean(abs(value) <= 1 for value in last + key) if last else None,
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """{quantile: value}; {} of nothing."""
    if not values:
        return {}
    found = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor(QUANTILES, dtype=torch.float64))
    return {f"{quantile:g}": float(value) for quantile, value in zip(QUANTILES, found, strict=True)}


def table(rows: Rows) -> str:
    """A line per model: what a keyframe at the cut gains, and the frames around borders, medians."""
    head = ["model", "channels", "scored on", "pairs", "cuts found", "gain of frames 9 to 16", "3 dB or more"]
    head += ["more numbers per cut", "borders", "last frame of a group", "keyframe", "within 1 dB"]
    lines = []
    for row in rows:
        cuts, at = row.values["cuts"], row.values["borders"]
        last, key = (
            f"{at[name]['0.5']:+.1f} dB" if at[name] else "-"
            for name in ("last_frame_minus_mean_db_quantiles", "keyframe_minus_mean_db_quantiles")
        )
        channels = " / ".join(str(number) for number in row.values["latent_channels"].values())
        cells = [f"`{row.arguments['model']}`", channels, f"`{row.arguments['scored_on']}`", str(cuts["pairs"])]
        cells += [f"{cuts['cut_found']:.0%}", f"{cuts['gain_db_quantiles']['0.5']:+.1f} dB"]
        cells += [f"{cuts['share_of_3_db']:.0%}", f"{cuts['extra_latents_median']:,.0f}", str(at["borders"]), last, key]
        within = at["share_within_1_db"]
        lines.append(([row], [*cells, "-" if within is None else f"{within:.0%}"]))
    return markdown_table(head, lines)


STUDY = Study(
    "keyframes",
    (*AUTOENCODER_CODE, *MODELS, FILES, "pipelines.studies.keyframes"),
    cases,
    measure,
    {"keyframes": table},
)

if __name__ == "__main__":
    main(STUDY)
