"""Checking files in worker processes: crashes, hangs and memory are contained and named."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.data_config import DataConfig
from pipelines.data.probe import Worker, probe_files, say_without_limit
from pipelines.data.video_file import read_video, write_video

REPOSITORY = Path(__file__).parents[2]


def request(path: Path) -> dict[str, int | str]:
    return {"path": str(path), "max_frame_pixels": 10**9, "max_file_pixels": 10**10}


def test_worker_does_not_import_torch() -> None:
    code = "import sys, pipelines.data.probe_worker; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_answers_hold_what_is_in_the_file(tmp_path, make_file) -> None:
    make_file(tmp_path / "a.avi", num_frames=7, height=48, width=64)
    answer = probe_files(tmp_path, ["a.avi"], DataConfig())["a.avi"]
    facts = {name: answer[name] for name in ("num_frames", "width", "height", "fps")}
    assert facts == {"num_frames": 7, "width": 64, "height": 48, "fps": 25.0}


def test_hanging_file_is_given_up_and_the_next_one_checked(tmp_path, make_file) -> None:
    file = make_file(tmp_path / "a.avi", num_frames=3, height=16, width=64)
    worker = Worker(950)
    try:
        worker.start()
        os.kill(worker.process.pid, signal.SIGSTOP)
        assert worker.check(request(file), 0.3)["error"] == "checking took longer than 0.3 s"
        assert worker.check(request(file), 20)["num_frames"] == 3
    finally:
        worker.stop()


def test_time_outs_are_not_remembered(tmp_path, make_file) -> None:
    make_file(tmp_path / "a.avi", num_frames=3, height=16, width=64)
    cache = tmp_path / "cache.jsonl"  # a busy machine may have been the reason
    answer = probe_files(tmp_path, ["a.avi"], DataConfig(probe_seconds=0.0), cache)["a.avi"]
    assert "took longer" in answer["error"] and not cache.read_text()
    assert probe_files(tmp_path, ["a.avi"], DataConfig(), cache)["a.avi"]["num_frames"] == 3
    assert len(cache.read_text().splitlines()) == 1


def test_crash_of_the_decoder_is_named_and_the_worker_replaced(tmp_path, make_file) -> None:
    file = make_file(tmp_path / "a.avi", num_frames=3, height=16, width=64)
    worker = Worker(950)
    try:
        worker.start()
        os.kill(worker.process.pid, signal.SIGSTOP)  # so that it dies with the request in hand
        threading.Timer(0.2, os.kill, (worker.process.pid, signal.SIGKILL)).start()
        assert "crashed on it (exit -9)" in worker.check(request(file), 20)["error"]
        assert worker.check(request(file), 20)["num_frames"] == 3
        os.kill(worker.process.pid, signal.SIGKILL)  # died between two files
        worker.process.wait()
        assert worker.check(request(file), 20)["num_frames"] == 3
    finally:
        worker.stop()
    assert worker.process is None


def test_decode_bomb_is_refused_at_once(tmp_path) -> None:
    write_video(tmp_path / "bomb.avi", torch.zeros(2, 4096, 4096, 3, dtype=torch.uint8), 25, "mpeg4")
    started = time.monotonic()
    answer = probe_files(tmp_path, ["bomb.avi"], DataConfig())["bomb.avi"]
    assert answer["error"].startswith("oversized: 4096x4096") and time.monotonic() - started < 5


def test_memory_of_a_worker_is_capped(tmp_path) -> None:
    write_video(tmp_path / "large.avi", torch.zeros(2, 6144, 6144, 3, dtype=torch.uint8), 25, "mpeg4")
    config = DataConfig(probe_memory_mb=460, max_frame_pixels=10**9)
    error = probe_files(tmp_path, ["large.avi"], config)["large.avi"]["error"]
    assert "probe_memory_mb" in error or "crashed" in error


def test_worker_that_cannot_start_says_how_to_find_out_why(tmp_path, make_file) -> None:
    make_file(tmp_path / "a.avi", num_frames=3, height=16, width=16)
    with pytest.raises(RuntimeError, match="probe_memory_mb=not"):
        Worker("not").start()


def test_strange_paths_have_a_reason(tmp_path) -> None:
    (tmp_path / "folder.avi").mkdir()
    os.mkfifo(tmp_path / "pipe.avi")  # opening it would wait for a writer
    (tmp_path / "playlist.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n")
    names = ["folder.avi", "pipe.avi", "playlist.m3u8", "absent.avi"]
    started = time.monotonic()
    answers = probe_files(tmp_path, names, DataConfig())
    assert all(answers[name]["error"] for name in names) and time.monotonic() - started < 10
    assert answers["pipe.avi"]["error"] == "not a file" and answers["absent.avi"]["error"] == "missing"


def test_reported_frames_can_be_read_from_damaged_files(tmp_path, make_file) -> None:
    """The count is what the chosen reader delivers, wherever the file was cut or changed; never a crash or a hang."""
    random = np.random.default_rng(0)
    names = []
    for suffix, codec in ((".avi", "mpeg4"), (".mp4", "h264")):
        whole = make_file(tmp_path / f"whole{suffix}", codec, num_frames=30, height=48, width=64).read_bytes()
        for i in range(20):
            damaged = bytearray(whole)
            if i % 2:
                damaged = damaged[: int(random.integers(100, len(whole)))]
            else:
                for place in random.integers(0, len(whole), 20):
                    damaged[place] = int(random.integers(256))
            names.append(f"{i:02d}{suffix}")
            (tmp_path / names[-1]).write_bytes(damaged)
    answers = probe_files(tmp_path, names, DataConfig())
    readable = [name for name in names if "error" not in answers[name]]
    assert set(answers) == set(names) and len(readable) > 5
    assert any(answers[name]["num_frames"] < 30 for name in readable)
    for name in readable:
        count, reader = answers[name]["num_frames"], answers[name]["reader"]
        shape = (count, answers[name]["height"], answers[name]["width"], 3)
        assert read_video(tmp_path / name, range(count), reader).shape == shape
        assert read_video(tmp_path / name, [count - 1, 0], reader).shape[0] == 2


def test_hostile_files_need_less_than_a_gigabyte(real_clips) -> None:
    worker = Worker(950)
    try:
        for file in sorted((real_clips / "broken").iterdir()):
            assert worker.check(request(file), 30)
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        peak_kilobytes = int(status.split("VmHWM:")[1].split()[0])
        assert peak_kilobytes < 600_000
    finally:
        worker.stop()


def test_a_system_without_a_limit_of_memory_is_told_and_used(tmp_path, make_file, monkeypatch, capsys) -> None:
    """What Python says on macOS; the file is checked all the same."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import resource\n_set = resource.setrlimit\n"
        "def setrlimit(which, limits):\n"
        "    if which == resource.RLIMIT_AS:\n        raise ValueError('current limit exceeds maximum limit')\n"
        "    return _set(which, limits)\nresource.setrlimit = setrlimit\n"
    )
    monkeypatch.setattr(Worker, "start", with_site(Worker.start, str(site)))
    say_without_limit.cache_clear()
    for name in ("a.avi", "b.avi"):
        make_file(tmp_path / name, num_frames=7, height=48, width=64)
        assert probe_files(tmp_path, [name], DataConfig(probe_workers=1))[name]["num_frames"] == 7
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "without data.probe_memory_mb" in said


def with_site(start, folder: str):
    """Worker.start with a folder of Python's own before the repository in its search path."""

    def started(worker: Worker) -> None:
        original = subprocess.Popen

        def opened(command, **options):
            options["env"] = options["env"] | {"PYTHONPATH": os.pathsep.join([folder, options["env"]["PYTHONPATH"]])}
            return original(command, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", opened)
            start(worker)

    return started
