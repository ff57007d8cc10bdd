"""Results of many runs, as their stages left them: scores with what they may be compared by, sizes and costs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any

from pipelines.inputs.scores import SCORES_FILE
from pipelines.metrics.declared import COUNT, scores_among
from pipelines.parts.report.sizes import count_parameters

TRAINING_STAGES = ("train_motion", "train_vae", "train_latte")
STAGES = ("prepare_data", *TRAINING_STAGES[:2], "cache_latents", TRAINING_STAGES[2])
EMBEDDED = "embedded moving shapes"


@dataclass(frozen=True)
class Score:
    """One number. Two of them may be compared where their ids are equal."""

    value: float
    id: str  # protocol, numbers of clips, weights: all that the number depends on besides what is scored
    spread: float | None = None  # standard deviation over sets of samples or seeds


@dataclass(frozen=True)
class DataSet:
    """The real clips behind scores; those of different data are never set side by side."""

    fingerprint: str
    resolution: int
    num_frames: int
    frame_stride: int
    name: str = field(compare=False)


@dataclass(frozen=True)
class Result:
    """One evaluation of one run."""

    run: str
    path: Path  # the folder of the scores
    made_from: str  # name of the set of samples, or of what was named in its place
    data: DataSet
    scores: Mapping[str, Score]  # of reconstructions and of generated videos, by name
    samples: Path | None  # the folder of the videos
    parameters: Mapping[str, int]  # {"autoencoder": ..., "Latte": ...}, as far as the models are there
    seconds: Mapping[str, float]  # of the stages that this run made itself
    peak_rss_gb: float
    git_commit: str

    @property
    def name(self) -> str:
        """How sentences call it."""
        return f"{self.run}/{self.made_from}"


def find_results(references: Sequence[str], root: str) -> list[Result]:
    """The results behind report.runs, ordered by run.

    references: names of runs below `root`, run folders, or folders that hold runs. Raises ValueError for one without
    finished scores.
    """
    found: dict[Path, Result] = {}
    for reference in references:
        folder = next((path for path in (Path(root) / reference, Path(reference)) if path.is_dir()), None)
        files = [] if folder is None else score_files(folder)
        if not files:
            raise ValueError(
                f"report.runs names {reference!r}, but there are no finished scores: name a run, or a folder of runs, "
                "and call python pipelines/evaluate.py for it first"
            )
        found |= {file.resolve(): read_result(file) for file in files}
    return sorted(found.values(), key=lambda result: (result.run, result.made_from))


def score_files(folder: Path) -> list[Path]:
    """scores.json of every finished evaluation of a run, or of every run in a folder."""
    own = sorted(folder.glob(f"evaluate/*/{SCORES_FILE}")) or sorted(folder.glob(f"*/evaluate/*/{SCORES_FILE}"))
    return [file for file in own if (file.parent / "done.json").is_file()]


def read_result(file: Path) -> Result:
    """The result behind a scores.json. ValueError where it was written by another version."""
    run = file.parents[2]
    made = _read(file.with_name("provenance.json"))
    settings, inputs = made["settings"], made["inputs"]
    data, samples = settings["data"], inputs.get("samples", {}).get("path")
    sample_folder = _existing(samples, run)
    models = _read(sample_folder / "provenance.json")["inputs"] if _is_set(sample_folder) else {}
    models = {name: entry["path"] for name, entry in (*models.items(), *inputs.items()) if name in ("vae", "latte")}
    costs = [_read(run / stage / "time.json") for stage in (*STAGES, file.parent.relative_to(run))]
    return Result(
        run=run.name,
        path=file.parent,
        made_from=Path(samples or inputs.get("vae", {}).get("path", file.parent.name)).name,
        data=DataSet(
            inputs["data set"]["hash"],
            *(data[name] for name in ("resolution", "num_frames", "frame_stride")),
            name=Path(data["root"]).name or EMBEDDED,
        ),
        scores=read_scores(_read(file), settings["evaluate"], file),
        samples=sample_folder if _is_set(sample_folder) else None,
        parameters=count_parameters(run, models),
        seconds={stage: entry["seconds"] for stage, entry in zip((*STAGES, "evaluate"), costs, strict=True) if entry},
        peak_rss_gb=max((entry["peak_rss_gb"] for entry in costs if entry), default=0.0),
        git_commit=made["git_commit"],
    )


def read_scores(scores: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any], file: Path) -> dict[str, Score]:
    """{name: Score} of a scores.json; options: the section `evaluate` that it was made with."""
    found: dict[str, Score] = {}
    for values in scores.values():
        for metric, value in scores_among(values):
            if metric.best == COUNT:
                continue
            record = values.get(f"{metric.name}_record") or {}
            per_seed = values.get(f"{metric.name}_per_seed") or []
            over_seeds = stdev(per_seed) if len(per_seed) > 1 else None
            try:
                identity = metric.identity(values, options)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            found[metric.name] = Score(float(value), identity, record.get("std", over_seeds))
    return found


def _is_set(folder: Path | None) -> bool:
    """Whether the folder is a set of samples that sample.py made."""
    return folder is not None and (folder / "samples.json").is_file() and (folder / "provenance.json").is_file()


def _existing(reference: str | None, run: Path) -> Path | None:
    """A folder as its stage named it, or where the run was moved as a whole, the one of that name in it."""
    if not reference:
        return None
    return next((path for path in (Path(reference), run / "sample" / Path(reference).name) if path.is_dir()), None)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
