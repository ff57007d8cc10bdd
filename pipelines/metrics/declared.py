"""What a metric says of itself, where it is defined: pages, tables and comparisons read it here and know no names.

A metric of videos alone is declared with the function that computes it, and evaluate runs it: docs/add_a_metric.md.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.metrics.clip_set import ClipSet

HIGHER, LOWER, ONE, COUNT = "higher is better", "lower is better", "1 is best", "a count, no score"
RECONSTRUCTION, GENERATION, PROXIES = "reconstruction", "generation", "proxy distances"  # tables of the leaderboard
ALWAYS, IF_MEASURED, NEVER = "always", "if measured", "never"
# What numbers may be compared by, as a template: {names} of options of `evaluate` and of the scores beside it.
ITS_RECORD = "{record[id]}"  # the id in NAME_record, which the stage writes
HELD_OUT_CLIPS = "{classifier_clips} held-out clips at most"


@dataclass(frozen=True)
class Metric:
    """One score by name. Two numbers may be compared where `identity` gives the same for both."""

    name: str  # in scores.json and everywhere else
    meaning: str  # in words, for pages
    best: str  # HIGHER | LOWER | ONE | COUNT
    compared_by: str  # template of its id
    table: str = GENERATION  # of the leaderboard: RECONSTRUCTION | GENERATION | PROXIES
    is_detail: bool = False  # a component or a control: on the page of its run only
    summary: str = NEVER  # in summary.json: ALWAYS (null where it was not measured) | IF_MEASURED | NEVER
    # Metrics of videos alone: (generated videos, real held-out clips) -> the score, None where there is none.
    score: Callable[[ClipSet, ClipSet], float | None] | None = field(default=None, compare=False)

    def badness(self, value: float) -> float:
        """A number that is smallest for the best value."""
        return {HIGHER: -value, ONE: abs(value - 1)}.get(self.best, value)

    def identity(self, values: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """What the number may be compared by, beside `values` of a scores.json, made with `options` of evaluate.

        Raises ValueError where these do not hold what it is made of.
        """
        record = values.get(f"{self.name}_record") or {}
        try:
            template = ITS_RECORD if "id" in record else self.compared_by
            return template.format_map({**options, **values, "record": record})
        except KeyError as error:
            reason = f"{self.name} has no {error} by which it is compared"
            raise ValueError(f"{reason}: it was written by another version, call evaluate.py again") from error


_declared: dict[str, Metric] = {}


def declare(metric: Metric) -> Metric:
    """Make a metric known. ValueError where another one has its name."""
    if _declared.get(metric.name, metric) != metric:
        raise ValueError(f"two metrics are called {metric.name!r}: give one of them another name")
    _declared[metric.name] = metric
    return metric


def declared_metrics() -> dict[str, Metric]:
    """Every metric that a module of this folder declares, by name, sorted."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"pipelines.metrics.{module.name}")
    return dict(sorted(_declared.items()))


def scores_among(values: Mapping[str, Any]) -> Iterator[tuple[Metric, float]]:
    """The numbers of a section of scores.json with their metrics; what no metric declares is left out."""
    metrics = declared_metrics()
    for name, value in values.items():
        if name in metrics and value is not None:
            yield metrics[name], value
