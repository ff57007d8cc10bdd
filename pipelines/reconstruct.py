"""Videos in, reconstructions out: python pipelines/reconstruct.py [CONFIG.yaml ...] reconstruct.input=FILE_OR_FOLDER

Writes runs/<run>/reconstruct/<input>-<digest>/: per file a side-by-side video of all components, a figure and scores;
index.html and scores.json over all files. Also the latent map (DeCo-VAE Figure 1b) and reconstruct.exchange=[A,B].
"""

import contextlib
import ctypes
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.data.video_sources import ReadError, Unreadable, VideoSource, find_sources, indexed_sources
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import resolve_model
from pipelines.inputs.run_paths import run_path
from pipelines.inputs.scoring_networks import open_extractor, open_lpips
from pipelines.inputs.weights_used import weights_found
from pipelines.metrics.reconstruction_protocols import find_protocols
from pipelines.parts.reconstruct.exchange import exchange_components
from pipelines.parts.reconstruct.file_scores import Scoring
from pipelines.parts.reconstruct.files import reconstruct_file
from pipelines.parts.reconstruct.folders import (
    STAGE,
    check_cache,
    file_folder,
    printable,
    results_folder,
)
from pipelines.parts.reconstruct.latent_map import draw_latent_map
from pipelines.parts.reconstruct.pages import printed_table, summarise, write_page
from pipelines.run.checkpoint import publish
from pipelines.run.folder import StageFolder, write_json
from pipelines.run.live_line import told
from pipelines.run.ranks import choose_device
from pipelines.run.stage import alone, main
from vae.registry import load_autoencoder

# What decides about the files of one source; the latent map and exchanges have folders of their own.
FILE_OPTIONS = (
    *("input", "resolution", "max_frames", "gop", "chunk_frames", "tile_size"),
    *("protocols", "clip_frames", "clips_per_file", "save"),
)


@alone
def run(config: Experiment) -> None:
    """Reconstruct what is not reconstructed yet; draw the latent map; exchange components where two files are named."""
    options = config.reconstruct
    vae_path = resolve_model(options.vae or config.cache.vae, run_path(config), "train_vae")
    models = {"vae": vae_path}
    if options.compare_with:
        models["other vae"] = resolve_model(options.compare_with, run_path(config), "train_vae")
    if options.exchange:
        exchange_components(config, vae_path)
        if not options.input:
            return
    sources, unreadable = gather(config)
    done = reconstruct_files(config, vae_path, sources, unreadable)
    for file in unreadable:
        print(f"{STAGE}: not reconstructed: {printable(file.name)}: {printable(file.reason)}", file=sys.stderr)
    if not done:
        first = f"{unreadable[0].name}: {unreadable[0].reason}"
        raise ValueError(f"none of {len(unreadable)} files in {options.input} could be reconstructed, such as {first}")
    if options.latent_map:
        draw_latent_map(config, models, done)


def gather(config: Experiment) -> tuple[list[VideoSource], list[Unreadable]]:
    """The files of reconstruct.input, or the held-out files of the run's data set."""
    options = config.reconstruct
    if options.input:
        limits = (options.resolution, options.max_frames)
        return find_sources(options.input, config.data, *limits, check_cache(config))
    index = open_index(config)
    return indexed_sources(index.root, index.split("validation"), options.resolution, options.max_frames), []


def reconstruct_files(
    config: Experiment, vae_path: Path, sources: Sequence[VideoSource], unreadable: list[Unreadable]
) -> list[VideoSource]:
    """Every source that is not there yet, then the table over all; returns those that ended in a video.

    A source that cannot be read to its end after all joins `unreadable`.
    """
    names = [config.reconstruct.input or "held-out"]
    path, settings, inputs = results_folder(config, names, FILE_OPTIONS, {"vae": vae_path})
    folder = StageFolder(config.run.root, config.run.name, path)
    with folder.open(settings, inputs):
        missing = [source for source in sources if read_record(folder.path, source) is None]
        if missing:
            model = load_autoencoder(vae_path).to(choose_device(config.run.device))
            scoring = load_scoring(config)
            for source in told(missing, STAGE, "file", len(missing)):
                try:
                    # all results of a file appear at once
                    write = partial(reconstruct_file, model, source, options=config.reconstruct, scoring=scoring)
                    publish(file_folder(folder.path, source.name), write)
                except ReadError as error:
                    unreadable.append(Unreadable(source.name, str(error)))
                return_freed_memory()
        found = {source.name: read_record(folder.path, source) for source in sources}
        records = [record for record in found.values() if record is not None]
        summary = summarise(folder.path, records, unreadable, weights_found(config))
        write_json(folder.path / "scores.json", summary)
        write_page(folder.path, summary)
        folder.finish({"files": len(records), "unreadable": len(unreadable)})
        if records:
            print(printable("\n".join(printed_table(summary))))
            print(f"{STAGE}: {len(records)} videos in {printable(str(folder.path))}, see index.html there")
    return [source for source in sources if found[source.name] is not None]


def read_record(folder: Path, source: VideoSource) -> dict[str, Any] | None:
    """scores.json of a file whose results are complete and were made from this content; None otherwise."""
    path = file_folder(folder, source.name) / "scores.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    is_same = (record["sha256"], record["frames"]) == (source.sha256, source.num_frames)
    return record if is_same else None


def load_scoring(config: Experiment) -> Scoring:
    """The networks that score, as far as their weights are there."""
    options = config.reconstruct
    lpips = open_lpips(config, choose_device(config.run.device))
    is_wanted = options.clips_per_file and weights_found(config)["i3d"]
    extractor = open_extractor(config) if is_wanted else None
    return Scoring(find_protocols(options.protocols), lpips, extractor, options.clip_frames, options.clips_per_file)


def return_freed_memory() -> None:
    """Give what large frames left behind back to the system: glibc keeps it, and files of other sizes cannot use it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def describe(config: Experiment) -> str:
    """For run.dry_run: what would be reconstructed."""
    options = config.reconstruct
    what = options.input or "the held-out files of the data set"
    return f"reconstructs {what} with the autoencoder of {options.vae or config.cache.vae or run_path(config)}"


if __name__ == "__main__":
    main(STAGE, run, Experiment, ("reconstruct", "data", "evaluate", "weights", "run"), describe)
