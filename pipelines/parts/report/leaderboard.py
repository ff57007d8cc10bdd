"""The page of many runs: results side by side where they may be compared, and the papers' figures apart from them.

Results of one data set make a table; a column holds scores of one id only. Reads what stages wrote, computes nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from pipelines.data.pages import page_environment
from pipelines.data.pictures import data_uri
from pipelines.inputs.scores import PREVIEW_FILE
from pipelines.metrics.declared import GENERATION, PROXIES, RECONSTRUCTION, declared_metrics
from pipelines.parts.report.published import PUBLISHED
from pipelines.parts.report.results import TRAINING_STAGES, DataSet, Result, Score

TITLES = {  # of the tables, by what a metric declares
    RECONSTRUCTION: "Autoencoder: reconstruction of held-out clips",
    GENERATION: "Generated videos",
    PROXIES: "Generated videos, proxy distances to held-out clips",
}


def rank(results: Sequence[Result], name: str) -> list[Result]:
    """Results ordered by one score, best first. Raises ValueError where the scores may not be compared."""
    without = [result.name for result in results if result.scores.get(name) is None]
    if without:
        raise ValueError(
            f"report.compare is {name!r}, but there is no such score in {', '.join(without)}: evaluate these runs in "
            "the same way as the others, or leave them out of report.runs"
        )
    first = results[0]
    for other in results[1:]:
        ours, theirs = first.scores[name], other.scores[name]
        if ours.id != theirs.id:
            raise ValueError(
                f"{name} of {first.name} was computed as {ours.id} and that of {other.name} as {theirs.id}, and "
                "numbers of different protocols are not compared: evaluate both with the same options"
            )
        if first.data != other.data:
            raise ValueError(
                f"{name} of {first.name} and of {other.name} belong to different real clips ({describe(first.data)}; "
                f"{describe(other.data)}) and are not compared: evaluate both on one data set"
            )
    return sorted(results, key=lambda result: badness(name, result.scores.get(name)))


def badness(name: str, score: Score | None) -> float:
    """A number that is smallest for the best score."""
    return math.inf if score is None else declared_metrics()[name].badness(score.value)


def describe(data: DataSet) -> str:
    """A data set in words."""
    stride = f", every {data.frame_stride} frames" if data.frame_stride > 1 else ""
    size = f"{data.num_frames} x {data.resolution} x {data.resolution}"
    return f"{data.name} {data.fingerprint[:8]}, {size}{stride}"


def groups(results: Sequence[Result]) -> Iterator[tuple[DataSet, list[Result]]]:
    """Results of one data set together, the data set with most results first."""

    def key(result: Result) -> tuple[Any, ...]:
        return tuple(asdict(result.data)[name] for name in ("fingerprint", "resolution", "num_frames", "frame_stride"))

    found = [list(members) for _, members in groupby(sorted(results, key=key), key)]
    for members in sorted(found, key=len, reverse=True):
        yield members[0].data, members


def table(results: Sequence[Result], kind: str) -> dict[str, Any]:
    """{"columns": [{"metric", "id"}], "rows": [{"result", "cells": [{"text", "best"} or None]}]} of one of TITLES.

    A column for every pair of name and id: results under different protocols never meet in one.
    """
    metrics = declared_metrics()
    pairs = dict.fromkeys((name, score.id) for result in results for name, score in result.scores.items())
    keys = [(name, own) for name, own in pairs if metrics[name].table == kind and not metrics[name].is_detail]
    rows = [{"result": result, "cells": [cell(result, *key) for key in keys]} for result in results]
    for column, (name, _) in enumerate(keys):
        cells = [row["cells"][column] for row in rows if row["cells"][column]]
        best = min(badness(name, one["score"]) for one in cells)
        for one in cells:
            one["best"] = len(cells) > 1 and badness(name, one["score"]) == best
    columns = [{"metric": metrics[name], "id": identity} for name, identity in keys]
    return {"columns": columns, "rows": [row for row in rows if any(row["cells"])]}


def shown_meanings(results: Sequence[Result]) -> dict[str, str]:
    """{name: meaning} of the scores in all tables."""
    shown = [column["metric"] for kind in TITLES for column in table(results, kind)["columns"]]
    return {metric.name: metric.meaning for metric in shown}


def cell(result: Result, name: str, identity: str) -> dict[str, Any] | None:
    """A score as the page shows it; None where the result has none under this id."""
    score = result.scores.get(name)
    if score is None or score.id != identity:
        return None
    return {"score": score, "text": text_of(score)}


def text_of(score: Score) -> str:
    """A score with its spread, where there is one."""
    return f"{score.value:.4g}" + (f" ± {score.spread:.2g}" if score.spread else "")


def costs(result: Result) -> dict[str, Any]:
    """Sizes, minutes and memory of a result as text; "–" for what this run took from elsewhere."""
    training = [result.seconds[stage] for stage in TRAINING_STAGES if stage in result.seconds]
    minutes = [sum(training) if training else None, sum(result.seconds.values()) or None]
    return {
        "parameters": [f"{count / 1e6:.2f} M" if count else "–" for count in map(result.parameters.get, PART_NAMES)],
        "minutes": ["–" if one is None else f"{one / 60:.1f}" for one in minutes],
        "memory": f"{result.peak_rss_gb:.1f}",
        "commit": result.git_commit[:12] + "+changes" * result.git_commit.endswith("+changes"),
    }


PART_NAMES = ("autoencoder", "Latte")


def pictures(result: Result) -> str:
    """A few of the videos that were scored in one moving picture; "" where none were."""
    preview = result.path / PREVIEW_FILE
    return data_uri("image/webp", preview.read_bytes()) if preview.is_file() else ""


def render(results: Sequence[Result], compare: str, command: str) -> str:
    """The page as HTML: every picture inside, no request to anywhere."""
    ranked = rank(results, compare) if compare else []
    return (
        page_environment(Path(__file__).parent)
        .get_template("leaderboard.html.jinja")
        .render(
            sections=[
                {
                    "data": describe(data),
                    "results": members,
                    "tables": {title: table(members, kind) for kind, title in TITLES.items()},
                    "costs": {result.path: costs(result) for result in members},
                    "pictures": {result.path: pictures(result) for result in members},
                }
                for data, members in groups(results)
            ],
            num_results=len(results),
            compare=compare,
            way=declared_metrics()[compare].best if compare else "",
            ranked=[(result.name, result.scores[compare], text_of(result.scores[compare])) for result in ranked],
            published={
                task: [one for one in PUBLISHED if one.task == task]
                for task in dict.fromkeys(p.task for p in PUBLISHED)
            },
            meanings=shown_meanings(results),
            command=command,
        )
    )


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every score of every result, with ids, data, sizes and costs."""
    return [{**asdict(result), "path": str(result.path), "samples": str(result.samples or "")} for result in results]
