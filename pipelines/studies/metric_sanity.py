"""Do the metrics rank damage in the right order, and as FVD does? On real clips.

python -m pipelines.studies.metric_sanity [study.only=[classifier]] [study.key=value ...]

Files are drawn apart into "real" and "damaged" ones, several times. The damaged ones are blurred, made noisy, shuffled
in time, frozen, or given the wrong class, each in three strengths; every distance should grow with the strength. Needs
`python pipelines/weights.py i3d lpips`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from pipelines.metrics.i3d_weights import load_i3d
from pipelines.metrics.proxy_temporal import TemporalFeatures
from pipelines.metrics.weight_files import find_weights
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.sanity.clips import Clips, files_of, read_clips
from pipelines.studies.sanity.damage import DAMAGE, MIX_UP, STRENGTHS, mix_up
from pipelines.studies.sanity.distances import WRONG, Values, by_classifier, by_features, by_i3d, by_lpips
from pipelines.studies.study import Case, Measured, Study, StudySection, main

CLIPS_PER_FILE, NUM_SPLITS, TINY_FILES = 2, 16, 8
TINY_SOURCES = ("temporal", "classifier")
CLASSIFIER_CLIPS, CLASSIFIER_STEPS, CLASSIFIER_DRAWS = 6, 200, 6
SOURCES = ("temporal", "i3d", "i3d_random", "lpips", "classifier")
ENOUGH = 4  # kinds of damage in order, of five
REAL = "fvd16"  # what a proxy stands for
AGREES = 0.7  # rank correlation with it, over all kinds and strengths of damage; set before anything was measured
YES_NO = {True: "yes", False: "no"}


def cases(options: StudySection) -> list[Case]:
    """A case per source of features; each gives one metric or several."""
    return [Case({"features": source}, 0) for source in (TINY_SOURCES if options.tiny else SOURCES)]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Read the clips and measure what each source of features sees of the damage."""
    folders = [Path(options.clips) / name for name in ("actions64", "ucf101", "clips")]
    files = [file for folder in folders for file in files_of(folder)[: TINY_FILES if options.tiny else None]]
    clips = read_clips(files, 1 if options.tiny else CLIPS_PER_FILE)
    for case in waiting:
        found = values_of(case.arguments["features"], clips, options, work)
        values = {"num_files": len({file for file, _ in clips}), "num_clips": len(clips)}
        yield Measured(case, round_floats({**values, "metrics": {name: judge(found[name]) for name in found}}))


def values_of(source: str, clips: Clips, options: StudySection, work: Path) -> Values:
    """The values of all metrics of one source of features."""
    count, folder = (2 if options.tiny else NUM_SPLITS), work / source
    if source == "temporal":
        return by_features(clips, folder, [TemporalFeatures()], count)
    if source in ("i3d", "i3d_random"):
        weights = Path("there-are-none") if source == "i3d_random" else weights_folder("i3d")
        return by_i3d(clips, folder, count, load_i3d(weights, precision="bf16"))
    if source == "lpips":
        return by_lpips(clips, folder, weights_folder("alexnet", "vgg16"), count)
    people = read_clips(files_of(Path(options.clips) / "actions64"), 1 if options.tiny else CLASSIFIER_CLIPS)
    draws, steps = (1, 2) if options.tiny else (CLASSIFIER_DRAWS, CLASSIFIER_STEPS)
    return by_classifier(people, folder, draws, steps)


def weights_folder(*names: str) -> Path:
    """The folder with the files of `names`; ValueError where one is not there."""
    folder = REPOSITORY / "weights"
    for name in names:
        if find_weights(folder, name) is None:
            raise ValueError(f"{name} is not in {folder}: call python pipelines/weights.py i3d lpips first")
    return folder


def grows(values: Sequence[float]) -> bool:
    """Whether every value is larger than the one before."""
    return all(after > before for before, after in pairwise(values))


def judge(by_damage: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Means over splits, whether they grow, in how many splits they do, and whether the metric is kept."""
    found = {}
    for damage, splits in by_damage.items():
        mean = [fmean(values) for values in zip(*splits, strict=True)]
        found[damage] = {"mean": mean, "ordered": grows(mean), "splits_ordered": sum(map(grows, splits)) / len(splits)}
    ordered = sum(entry["ordered"] for entry in found.values())
    return {"damage": found, "ordered": ordered, "kept": ordered >= ENOUGH}


def agreement(rows: Rows) -> str:
    """Rank correlation of every metric with FVD over the kinds and strengths of damage."""
    entries = {name: (row, metric) for row in rows for name, metric in row.values["metrics"].items()}
    if REAL not in entries:
        return "FVD has not been measured yet."
    real_row, real = entries[REAL]
    lines = []
    for name, (row, metric) in entries.items():
        if name not in (REAL, WRONG):
            correlation = float(spearmanr(*(means_of(one) for one in (real, metric))).statistic)
            verdict = YES_NO[correlation >= AGREES] if name.startswith("proxy_") else "-"
            lines.append((-correlation, ([real_row, row], [f"`{name}`", f"{correlation:.2f}", verdict])))
    return markdown_table(
        ["metric", "rank correlation with fvd16", "agrees"],
        [line for _, line in sorted(lines, key=lambda line: line[0])],
    )


def means_of(metric: Mapping[str, Any]) -> list[float]:
    """The means of a metric at strength 0, and at every strength of every damage but the classes."""
    by_damage = [metric["damage"][damage]["mean"] for damage in DAMAGE]
    return [by_damage[0][0], *(value for mean in by_damage for value in mean[1:])]


def ranking(rows: Rows) -> str:
    """A line per metric: which damage it ranks, and in how many of the splits."""
    damages = [*DAMAGE, MIX_UP]
    entries = [(row, name, metric) for row in rows for name, metric in row.values["metrics"].items()]
    lines = []
    for row, name, metric in sorted(entries, key=lambda entry: not entry[2]["kept"]):
        marks = [mark(metric["damage"].get(damage)) for damage in damages]
        kept = YES_NO[metric["kept"]] if name.startswith("proxy_") else "-"
        lines.append(([row], [f"`{name}`", *marks, f"{metric['ordered']} of 5", kept]))
    return markdown_table(["metric", *damages, "in order", "kept"], lines)


def mark(entry: Mapping[str, Any] | None) -> str:
    """A cell of that table: in order or not, and in how many of the splits."""
    if entry is None:
        return "sees no classes"
    return f"{YES_NO[entry['ordered']]} ({100 * entry['splits_ordered']:.0f} %)"


def strengths(rows: Rows) -> str:
    """What each kind of damage does."""
    meanings = {name: damage.__doc__ or "" for name, damage in DAMAGE.items()} | {MIX_UP: mix_up.__doc__ or ""}
    return "\n".join(f"- **{name}**: {meaning.split('. ')[0]}" for name, meaning in meanings.items())


def values(rows: Rows) -> str:
    """Every mean."""
    head = ["metric", "damage", *(f"strength {strength}" for strength in STRENGTHS), "splits in order"]
    lines = [
        (
            [row],
            [
                *(f"`{name}`", damage, *(f"{value:.3g}" for value in entry["mean"])),
                f"{100 * entry['splits_ordered']:.0f} %",
            ],
        )
        for row in rows
        for name, metric in row.values["metrics"].items()
        for damage, entry in metric["damage"].items()
    ]
    return markdown_table(head, lines)


STUDY = Study(
    "metric_sanity",
    ("pipelines.data", "pipelines.metrics", "pipelines.studies.sanity", "pipelines.studies.metric_sanity"),
    cases,
    measure,
    {"ranking": ranking, "agreement": agreement, "strengths": strengths, "values": values},
)

if __name__ == "__main__":
    main(STUDY)
