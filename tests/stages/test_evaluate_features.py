"""Features in files: processes of torchrun share them, a kill loses one file at most, every clip is there once."""

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.metrics.clip_set import ClipSet, evenly_spaced
from pipelines.metrics.frechet import frechet_distance
from pipelines.metrics.fvd import stream_statistics
from pipelines.parts.evaluate.features import CHUNK, FeatureFiles
from pipelines.run.ranks import connect, disconnect

NUM_CLIPS, DIMENSION = 5 * CHUNK + 3, 36


def clip_set(seed: int, read: list[int] | None = None, seconds: float = 0.0) -> ClipSet:
    """Clips (3, 4, 4, 3) that differ; positions that are read are noted."""

    def clip(position: int) -> Tensor:
        time.sleep(seconds)
        if read is not None:
            read.append(position)
        generator = torch.Generator().manual_seed(1000 * seed + position)
        return torch.randint(0, 256, (3, 4, 4, 3), generator=generator, dtype=torch.uint8)

    return ClipSet(range(NUM_CLIPS), clip)


def extract(clips_uint8: Tensor) -> Tensor:
    """(n, 3, 4, 4, 3) uint8 -> (n, 36)."""
    return clips_uint8.float().mean(dim=2).flatten(1)


def work(folder: Path, rank: int, world: int, port: int) -> None:
    """One process as torchrun starts it: its share of two sets of clips; which clips it read goes into a file."""
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in facts.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    ranks = connect("cpu" if torch.accelerator.is_available() else "auto")  # auto is what nearly everybody leaves
    assert (ranks.process_index, ranks.num_processes) == (rank, world)
    for seed in (1, 2):
        read: list[int] = []
        files = FeatureFiles(folder / str(seed), NUM_CLIPS)
        files.fill(clip_set(seed, read), extract, 4, "clips", ranks.process_index, ranks.num_processes)
        (folder / f"read-{seed}-{rank}.json").write_text(json.dumps(read))
        assert not files.missing(), "every process returns when all is there"
    disconnect()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def distance(folder: Path) -> float:
    return frechet_distance(*(stream_statistics(FeatureFiles(folder / str(seed), NUM_CLIPS).load()) for seed in (1, 2)))


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for seed in (1, 2):
        FeatureFiles(folder / str(seed), NUM_CLIPS).fill(clip_set(seed), extract, 4, "clips")
    return folder


def test_features_stand_in_order(one_process: Path) -> None:
    clips, files = clip_set(1), FeatureFiles(one_process / "1", NUM_CLIPS)
    expected = torch.cat([extract(clips[i].unsqueeze(0)) for i in range(NUM_CLIPS)])
    assert expected.shape == (NUM_CLIPS, DIMENSION)
    torch.testing.assert_close(files.load(), expected)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_any_number_of_processes_gives_the_same_distance(one_process: Path, tmp_path: Path, num_processes: int) -> None:
    context, port = multiprocessing.get_context("forkserver"), free_port()
    context.set_forkserver_preload(
        ["pipelines.run.ranks", "pipelines.parts.evaluate.features", "pipelines.metrics.fvd"]
    )
    arguments = [(tmp_path, rank, num_processes, port) for rank in range(num_processes)]
    processes = [context.Process(target=work, args=one) for one in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * num_processes
    assert distance(tmp_path) == pytest.approx(distance(one_process), rel=1e-10)
    for seed in (1, 2):
        read = [json.loads((tmp_path / f"read-{seed}-{rank}.json").read_text()) for rank in range(num_processes)]
        assert all(read), "every process had something to do"
        assert sorted(position for own in read for position in own) == list(range(NUM_CLIPS)), "each clip exactly once"


def slow_fill(folder: Path) -> None:
    FeatureFiles(folder, NUM_CLIPS).fill(clip_set(1, seconds=0.01), extract, 4, "clips")


def test_a_kill_loses_what_is_not_written(one_process: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=slow_fill, args=(tmp_path / "1",))
    process.start()
    while len(list((tmp_path / "1").glob("*.safetensors"))) < 2:
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    files, read = FeatureFiles(tmp_path / "1", NUM_CLIPS), []
    missing = files.missing()
    assert 1 <= len(missing) <= 4
    files.fill(clip_set(1, read), extract, 4, "clips")
    assert read == [i for i in range(NUM_CLIPS) if i // CHUNK in missing], "what was written is not computed again"
    assert torch.equal(files.load(), FeatureFiles(one_process / "1", NUM_CLIPS).load())


def test_a_damaged_file_is_named(one_process: Path, tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path / "1", NUM_CLIPS)
    files.fill(clip_set(1), extract, 4, "clips")
    (tmp_path / "1" / "00002.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="00002.safetensors .*remove"):
        files.load()


def test_progress_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.run.live_line.SECONDS_BETWEEN_LINES", 0.0)
    files = FeatureFiles(tmp_path / "1", NUM_CLIPS)
    parts = len(files.missing())
    files.fill(clip_set(1), extract, 4, "real clips")
    lines = capsys.readouterr().err.splitlines()
    assert [line[: line.index("  ")] for line in lines] == [
        f"real clips: part {number} of {parts}" for number in range(1, parts + 1)
    ]
    files.fill(clip_set(1), extract, 4, "real clips")
    assert capsys.readouterr().err == "", "nothing to do, nothing to say"


def test_a_clip_set_reads_what_is_asked_for() -> None:
    read: list[int] = []
    clips = clip_set(3, read)
    part = clips.subset([5, 2, 9]).cut(2)
    assert len(part) == 3 and part.labels.tolist() == [5, 2, 9] and read == []
    batches = list(part.batches(2))
    assert [batch.shape for batch, _ in batches] == [(2, 2, 4, 4, 3), (1, 2, 4, 4, 3)] and read == [5, 2, 9]
    assert torch.equal(batches[1][0][0], clips[9][:2]) and batches[0][1].tolist() == [5, 2]
    assert len(clips.thinned(4)) == 4 and evenly_spaced(10, 4) == [0, 3, 6, 9] and evenly_spaced(2, 9) == [0, 1]
    memory = ClipSet.of(torch.stack([clips[0], clips[1]]), [3, 4])
    assert torch.equal(memory[1], clips[1]) and memory.labels.tolist() == [3, 4]
    with pytest.raises(IndexError):
        memory[2]
