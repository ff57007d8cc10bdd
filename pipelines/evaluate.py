"""Score reconstructions and samples: python pipelines/evaluate.py [CONFIG.yaml ...] [key=value ...]

Of this run's samples, of evaluate.samples=FOLDER (anybody's videos, or an exported pipeline), of evaluate.vae=FOLDER
(any autoencoder). Writes runs/<run>/evaluate/<samples>-<digest>/scores.json; the same command goes on after a kill, and
`torchrun` shares the work.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.data.clip_index import ClipIndex
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import index_input, open_index
from pipelines.inputs.models import model_paths
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.samples import sample_folder
from pipelines.inputs.scores import NOT_IN_NAME, SCORES_FILE, scores_folder
from pipelines.inputs.weights_used import weights_found
from pipelines.metrics.declared import COUNT, scores_among
from pipelines.parts.evaluate.autoencoder_scores import rfvd_extractor, score_autoencoder
from pipelines.parts.evaluate.autoencoders import find_autoencoder
from pipelines.parts.evaluate.class_scores import score_classes
from pipelines.parts.evaluate.context import Evaluation, SampleSet
from pipelines.parts.evaluate.frame_scores import score_frames
from pipelines.parts.evaluate.generation import score_frechet
from pipelines.parts.evaluate.judge_scores import score_judges
from pipelines.parts.evaluate.pipeline_samples import is_pipeline, sample_pipeline
from pipelines.parts.evaluate.preview import write_preview
from pipelines.parts.evaluate.proxy_scores import score_proxies
from pipelines.parts.evaluate.sample_sources import read_folder, read_sample_set
from pipelines.parts.evaluate.video_scores import score_videos
from pipelines.run.folder import StageFolder, write_json
from pipelines.run.hashes import digest, hash_folder
from pipelines.run.ranks import connect, is_first, wait
from pipelines.run.stage import main, select

STAGE = "evaluate"
MAY_CHANGE = ("data.*", *(f"{STAGE}.{name}" for name in NOT_IN_NAME))


def run(config: Experiment) -> None:
    """Score what the options name: generated videos, the autoencoder, or both."""
    ranks, index = connect(config.run.device), open_index(config)
    samples, vae_path = open_inputs(config, index)
    folder = StageFolder(config.run.root, config.run.name, f"{STAGE}/{scores_folder(config).name}")
    settings = select(config, ("data", "evaluate", "run"))
    with folder.open(settings, inputs(config, index, samples, vae_path), MAY_CHANGE):
        wait()  # the first process has found nothing against it
        weights = weights_found(config)
        if folder.done:
            arrived = [file for use, file in weights.items() if file and not used_weights(folder.done).get(use)]
            if not arrived:
                print(f"{STAGE}: scored already, {folder.path / SCORES_FILE}")
                return
            if folder.is_main:
                print(f"{STAGE}: scored before without {', '.join(arrived)}: scoring again")
            wait()  # nobody reads the mark any more
            folder.reopen()
        scores: dict[str, dict[str, Any]] = {"reconstruction": {}, "generation": {}}
        if samples:
            own_vae = vae_path or with_nothing(lambda: find_autoencoder(config.cache.vae, run_path(config)))
            is_own = not config.evaluate.samples
            evaluation = Evaluation(config, index, ranks.device, folder.path, samples, own_vae, is_own)
            scores["generation"] = score_samples(evaluation, folder.is_main)
        if vae_path:
            extractor = rfvd_extractor(config)
            scores["reconstruction"] = score_autoencoder(vae_path, config, index, ranks.device, extractor)
        if folder.is_main:
            if samples:
                write_preview(samples, folder.path)
            write_json(folder.path / SCORES_FILE, scores)
            folder.finish({"scores": SCORES_FILE, "weights": weights})
            print(printed_table(scores, settings["evaluate"]))
            print(f"{STAGE}: {folder.path / SCORES_FILE}")
        wait()


def used_weights(done: Mapping[str, Any]) -> Mapping[str, str]:
    """The files of weights behind finished scores, by their use."""
    used: Mapping[str, str] = done["outputs"].get("weights", {})
    return used


def score_samples(evaluation: Evaluation, is_main: bool) -> dict[str, Any]:
    """{name: value, name_record: what defines it} of generated videos.

    All processes share the work of the first four; the rest is left to the main one. Classifiers are trained where the
    judges have not read the classes.
    """
    scores = score_frechet(evaluation) | score_frames(evaluation) | score_proxies(evaluation) | score_judges(evaluation)
    if is_main:
        scores |= score_videos(evaluation)
        if "class_accuracy" not in scores:
            scores |= score_classes(evaluation)
    return scores


def open_inputs(config: Experiment, index: ClipIndex) -> tuple[SampleSet | None, Path | None]:
    """The generated videos and the autoencoder that are scored, None where neither option nor run asks for them.

    evaluate.samples or evaluate.vae alone: only these. Neither: this run's samples and the autoencoder behind them.
    """
    options, vae_path = config.evaluate, None
    if options.vae:
        vae_path = find_autoencoder(options.vae, run_path(config))
    elif not options.samples:
        vae_path = model_paths(config)[1]
    if options.samples:
        return open_samples(config, index), vae_path
    return (None if options.vae else read_sample_set(sample_folder(config), index)), vae_path


def open_samples(config: Experiment, index: ClipIndex) -> SampleSet:
    """The videos behind evaluate.samples. ValueError where there are none, or one is not fit to be scored."""
    folder = Path(config.evaluate.samples)
    if not folder.is_dir():
        raise ValueError(f"evaluate.samples is {str(folder)!r}, but there is no such folder: name one with videos")
    if is_pipeline(folder):
        folder = sample_pipeline(folder, config, index)
    if (folder / "samples.json").is_file():
        return read_sample_set(folder, index)
    cache = run_path(config) / STAGE / f".checked-{digest(str(folder.absolute()))[:12]}.jsonl"
    with in_turns():
        cache.parent.mkdir(parents=True, exist_ok=True)
        return read_folder(folder, config, index, cache)


@contextlib.contextmanager
def in_turns() -> Any:
    """The first process alone, then the others, which find what it remembered."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def inputs(
    config: Experiment, index: ClipIndex, samples: SampleSet | None, vae_path: Path | None
) -> dict[str, dict[str, str]]:
    """What the scores are made from, {name: {"path", "hash"}}."""
    found = index_input(index)
    if samples:
        own = None if config.evaluate.samples else sample_folder(config)
        path, content = (str(own), own.name) if own else (config.evaluate.samples, samples.content)
        found |= {"samples": {"path": path, "hash": content}}
    if config.evaluate.vae and vae_path:
        found |= {"vae": {"path": str(vae_path), "hash": hash_folder(vae_path)}}
    return found


def with_nothing(find: Callable[[], Path]) -> Path | None:
    """What `find` gives, None where there is none."""
    try:
        return find()
    except ValueError:
        return None


def printed_table(scores: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]) -> str:
    """A line per score: its value, deviation over sets, and the id under which it may be compared."""
    rows = []
    for values in scores.values():
        for metric, value in scores_among(values):
            if metric.best != COUNT:
                record = values.get(f"{metric.name}_record") or {}
                deviation = f"± {record['std']:.4g}" if record.get("std") is not None else ""
                rows.append((metric.name, f"{value:.4g}", deviation, metric.identity(values, options)))
                if floor := record.get("floor"):
                    note = f"real against real, {floor['num_videos']} clips"
                    rows.append((f"{metric.name} floor", f"{floor['value']:.4g}", "", note))
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else [0] * 3
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip() for row in rows
    )


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("data", "cache", "sample", "evaluate", "weights", "run"))
