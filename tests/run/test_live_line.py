"""What a stage tells while it works: a live line in a terminal, a line a minute elsewhere, no number lost."""

import json
import re

import pytest

from pipelines.run import live_line, progress
from pipelines.run.folder import StageFolder
from pipelines.run.live_line import told
from pipelines.run.progress import Progress


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    own = Clock()
    monkeypatch.setattr(live_line, "time", own)
    monkeypatch.setattr(progress, "time", own)
    return own


def test_a_line_a_minute_in_a_file_and_none_for_short_work(clock, capsys):
    for _ in told(range(100), "cache_latents", "shard", 100):
        clock.now += 2.5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # of 250 seconds
    assert lines[0] == "cache_latents: shard 24 of 100  0.4/s  03:10 left"
    assert list(told(range(9), "short", "shard", 9)) == list(range(9))
    assert capsys.readouterr().err == ""


def test_silent_processes_say_nothing(clock, capsys):
    for _ in told(range(3), "sample", "video", 3, is_silent=True):
        clock.now += 100
    assert capsys.readouterr().err == ""


def test_one_live_line_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(told("abc", "sample", "video", 3)) == ["a", "b", "c"]
    written = capsys.readouterr().err
    assert "\n" not in written.strip() and re.search(r"sample: 100%.*3/3", written)


class Scalars:
    """Of one update."""

    def __init__(self, step: int) -> None:
        self.step = step

    def read(self) -> dict[str, float]:
        return {"vae/loss": 1.0, "vae/l1": 0.5, "vae/psnr": 20.0 + self.step, "discriminator/loss": 3.0}


@pytest.mark.parametrize(("score", "shown"), [("psnr", "psnr 22"), ("psnr_warp", "loss 1")])
def test_a_training_tells_one_score_once_a_minute_and_logs_all(tmp_path, clock, capsys, score, shown):
    folder = StageFolder(str(tmp_path), "run", "train_vae")
    with folder.open({}), Progress(folder, "train_vae", 0, 100, True, score) as told_run:
        for step in range(1, 101):
            clock.now += 3
            told_run.add(Scalars(step))
            if step % 2 == 0:
                told_run.report(step, 1e-3)
        told_run.report_validation(100, {"psnr_keyframe": 1.0, "psnr": 30.0, "psnr_warp": 25.0})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 4 + 1 + 1  # the first, one a minute, the last, and what was held out
    assert lines[0].startswith(f"train_vae: step 2 of 100  {shown.replace('22', '21.5')}  0.333/s  04:54 left")
    assert lines[-1] == f"train_vae: step 100 of 100  held-out {score} {'30' if score == 'psnr' else '25'}"
    logged = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == 51 and set(logged[0]) >= {"vae/loss", "vae/l1", "vae/psnr", "discriminator/loss"}
