"""Metrics of videos alone: all that pipelines/metrics declares with a function, of the samples and held-out clips."""

from pipelines.metrics.declared import declared_metrics
from pipelines.parts.evaluate.context import Evaluation


def score_videos(evaluation: Evaluation) -> dict[str, float | None]:
    """{name: score} of every such metric, evaluate.classifier_clips held-out clips at most beside all samples."""
    samples = evaluation.samples.clips
    held_out = evaluation.held_out.thinned(evaluation.config.evaluate.classifier_clips)
    metrics = declared_metrics().values()
    return {metric.name: metric.score(samples, held_out) for metric in metrics if metric.score is not None}
