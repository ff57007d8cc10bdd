"""Proxy distances of an evaluation: to held-out clips, with ids of their own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nano_run import nano

from pipelines import prepare_data
from pipelines.inputs.index import open_index
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.frechet import FeatureStatistics
from pipelines.metrics.proxy_frechet import standardised_distance
from pipelines.metrics.proxy_temporal import temporal_energies
from pipelines.parts.evaluate.context import Evaluation, SampleSet
from pipelines.parts.evaluate.proxy_scores import score_proxies

DATA = "data.shapes={resolution: 32, num_frames: 20, train_per_class: 1, validation_per_class: 1}"
TEMPORAL = "proxy_frechet_temporal"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory, autoencoders: Path) -> Evaluation:
    """Eight held-out clips, six generated ones of 16 frames, and an autoencoder."""
    root = tmp_path_factory.mktemp("proxies")
    config = nano(root, DATA)
    prepare_data.run(config)
    videos = torch.randint(0, 256, (6, 16, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    samples = SampleSet(ClipSet.of(videos), tuple("abcdef"), "content", "", 16)
    index = open_index(config)
    return Evaluation(config, index, torch.device("cpu"), root / "scores", samples, autoencoders / "default", False)


def test_every_distance_has_a_record_with_an_id(evaluation: Evaluation) -> None:
    scores = score_proxies(evaluation)
    assert {*scores} == {TEMPORAL, f"{TEMPORAL}_record"}
    record = scores[f"{TEMPORAL}_record"]
    assert record["value"] == scores[TEMPORAL] > 0 and record["id"].startswith(f"{TEMPORAL}-n6-")
    assert (record["num_real"], record["num_fake"]) == (64, 6)
    held_out = evaluation.many_held_out(evaluation.config.evaluate.proxy_clips)
    real = torch.stack([held_out[i][:16] for i in range(64)])
    fake = torch.stack([evaluation.samples.clips[i] for i in range(6)])
    sides = [FeatureStatistics.of(temporal_energies(clips)) for clips in (real, fake)]
    assert scores[TEMPORAL] == pytest.approx(standardised_distance(*sides)[0], rel=1e-5)
    again = score_proxies(evaluation)
    assert again == scores, "from the features that were kept"


def test_few_held_out_files_give_several_clips_each(evaluation: Evaluation) -> None:
    assert [len(evaluation.many_held_out(count)) for count in (5, 8, 15, 16, 1000)] == [5, 8, 8, 16, 64]
    clips = evaluation.many_held_out(16)
    labels = clips.labels.tolist()
    assert labels[::2] == labels[1::2] and sorted(labels[::2]) == list(range(8)), (
        "two of every file, one after the other"
    )
    assert not torch.equal(clips[0], clips[1])


def test_ids_differ_where_sets_do(evaluation: Evaluation, tmp_path: Path) -> None:
    fewer = replace(
        evaluation, config=replace(evaluation.config, evaluate=replace(evaluation.config.evaluate, proxy_clips=4))
    )
    ours, theirs = (score_proxies(one)[f"{TEMPORAL}_record"] for one in (evaluation, fewer))
    assert ours["id"] != theirs["id"] and theirs["id"].startswith(f"{TEMPORAL}-n4-")


def test_no_clips_no_proxies(evaluation: Evaluation) -> None:
    options = replace(evaluation.config, evaluate=replace(evaluation.config.evaluate, proxy_clips=0))
    assert score_proxies(replace(evaluation, config=options)) == {}
