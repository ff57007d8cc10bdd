"""Hostile and damaged files, and the cache under kills: F9 to F12."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from faults import cache_kills, children
from faults.children import Runs
from faults.trials import LONGEST_WAIT_SECONDS, Outcome, fault

from pipelines.data import probe
from pipelines.data.clip_index import build_index
from pipelines.data.data_config import DataConfig
from pipelines.data.probe import Worker
from pipelines.data.video_file import read_video, write_video

ROOT = Path(__file__).resolve().parents[2]
REAL_BROKEN = ROOT.parent / "shared" / "data" / "broken"
NUM_FUZZED = 157
GOOD = 12
BYTES_TO_CHANGE = 20
AVI_TOTAL_FRAMES, AVI_STREAM_LENGTH = 48, 140  # offsets of two 4-byte counts in the header of an AVI with one stream
LIMIT_SECONDS, LIMIT_MB = 1.0, 300
CRASHING, ENDLESS = "crashing", "endless"  # in the names of files
# Stands before everything else in a process and in its workers: decoders that fail on files with a word in their name.
SITE = f"""
import av, ctypes, os
def failing(read):
    def bad(file, *arguments, **options):
        name = os.path.basename(str(file))
        if "{CRASHING}" in name:
            ctypes.string_at(0)
        while "{ENDLESS}" in name:
            pass
        return read(file, *arguments, **options)
    return bad
av.open = failing(av.open)
try:
    import decord
    decord.VideoReader = failing(decord.VideoReader)
except ImportError:
    pass
"""


def video(seed: int, frames: int = 30, height: int = 48, width: int = 64) -> torch.Tensor:
    """Smooth noise that moves, (t, h, w, 3) uint8."""
    values = np.random.default_rng(seed).random((1, 3, 4, 6, 6))
    wide = torch.nn.functional.interpolate(torch.from_numpy(values).float(), (frames, height, width), mode="trilinear")
    return (wide[0] * 255).byte().permute(1, 2, 3, 0).contiguous()


def write_hostile(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """`count` damaged files and a few good ones; returns the names of the good and of the damaged ones."""
    folder.mkdir(parents=True)
    good, bad = [], []
    for number in range(GOOD):
        good.append(f"good{number}.{'avi' if number % 2 else 'mp4'}")
        write_video(folder / good[-1], video(number), 25, "mpeg4" if number % 2 else "h264")
    wholes = [(folder / name).read_bytes() for name in good[:2]]
    for number in range(count):
        whole, suffix = wholes[number % 2], (".mp4", ".avi")[number % 2]
        content = damaged(whole, number // 2 % 7)
        bad.append(f"bad{number:03d}{suffix}")
        (folder / bad[-1]).write_bytes(content)
    return good, bad


def damaged(whole: bytes, kind: int) -> bytes:
    """One of seven kinds of damage."""
    if kind == 0:
        return b""
    if kind == 1:
        return b"this is no video\n" * random.randint(1, 100)
    if kind == 2:
        return whole[: random.randint(16, 400)]  # the header, perhaps
    if kind == 3:
        return whole[: len(whole) // 2]
    if kind == 4:
        return bytes(len(whole))
    if kind == 5:
        return whole[: random.randint(400, len(whole))]
    content = bytearray(whole)
    for _ in range(BYTES_TO_CHANGE):
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)


@fault(
    "F9", "157 damaged files and real broken ones among good ones", "0 crashes, 0 hangs, every bad file named", 157, 28
)
def damaged_files(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    good, bad = write_hostile(folder / "videos", trials)
    if REAL_BROKEN.is_dir():
        for path in REAL_BROKEN.iterdir():
            bad.append(f"real-{path.name}")
            shutil.copy(path, folder / "videos" / bad[-1])
    config = DataConfig(root=str(folder / "videos"), num_frames=5, resolution=32, validation_fraction=0.2)
    index = build_index(config, 0, folder / "checks.jsonl")
    rejected, cut = dict(index.rejected), dict(index.cut)
    accepted = {entry.path: entry for entry in index.entries}
    for name in (*good, *bad):
        with outcome.trial(name):
            assert (name in accepted) != (name in rejected), f"{name} is neither used nor named"
            if name in accepted:  # what is used can be read to its end
                entry = accepted[name]
                frames = read_video(folder / "videos" / name, range(entry.num_frames), entry.reader)
                assert len(frames) == entry.num_frames, name
            assert name not in good or name in accepted, f"{name} is good, but {rejected.get(name)}"
            assert "crashed" not in rejected.get(name, "") and "took longer" not in rejected.get(name, ""), rejected
    used = sum(name in accepted for name in bad)
    outcome.figures = {"good": len(good), "bad named": len(rejected), "bad with readable frames": used}
    outcome.figures["of these shorter than their header says"] = len(cut)
    return outcome


@fault("F10", "decoder that crashes or never ends: checking, training, caching", "named in < 60 s, 6/6", 6, 0)
def decoder_fails(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    words = (CRASHING, ENDLESS)
    make_videos(folder / "videos", ["a.mp4", "b.mp4", *(f"{word}.mp4" for word in words)])
    failing = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with patch.dict(os.environ, failing):
        config = DataConfig(root=str(folder / "videos"), num_frames=5, resolution=32, probe_seconds=10, probe_workers=1)
        rejected = dict(build_index(config, 0).rejected)
    outcome.figures["checking, seconds"] = round(time.monotonic() - started, 1)
    outcome.count("crashed" in rejected.get(f"{CRASHING}.mp4", ""), f"{rejected}")
    outcome.count("took longer" in rejected.get(f"{ENDLESS}.mp4", ""), f"{rejected}")
    for word in words:
        make_videos(folder / word / "train", [f"{name}.mp4" for name in ("a", "b", "c", f"d-{word}")])
        make_videos(folder / word / "validation", ["e.mp4"], seed=9)
        runs = Runs(folder / f"runs-{word}", ())
        options = (f"data.root={folder / word}", "data.probe_seconds=20", "data.memory_cache_gb=0")
        for stage in ("prepare_data", "train_motion", "train_vae"):
            children.run(stage, runs.arguments("base", *options), runs.log)
        for stage, workers in (("train_vae", "vae.loop.num_workers=1"), ("cache_latents", "cache.num_workers=1")):
            name, arguments = f"{word} {stage}", runs.fresh(stage, stage, *options, workers, "vae.loop.steps=50")
            command = [sys.executable, str(ROOT / "pipelines" / f"{stage}.py"), *arguments]
            started = time.monotonic()
            ended = subprocess.run(
                command, env=failing, capture_output=True, text=True, check=False, timeout=LONGEST_WAIT_SECONDS
            )
            seconds = time.monotonic() - started
            outcome.figures[f"{name}, seconds"] = round(seconds, 1)
            is_named = ended.returncode == 2 and f"d-{word}.mp4" in ended.stderr.splitlines()[-1]
            outcome.count(is_named and seconds < 60, f"{name} {ended.returncode}, {seconds:.0f} s: {ended.stderr}")
    return outcome


def make_videos(folder: Path, names: Sequence[str], seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        write_video(folder / name, video(seed + number), 25)


@fault("F11", "a 8000 x 8000 bomb of 200 kB; a header that claims 10^6 frames", "refused in < 1 s, < 300 MB", 2, 1)
def bombs(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    header = folder / "million.avi"
    write_video(header, video(0, height=240, width=320), 25, "mpeg4")
    content = bytearray(header.read_bytes())
    for place in (AVI_TOTAL_FRAMES, AVI_STREAM_LENGTH):
        content[place : place + 4] = (10**6).to_bytes(4, "little")
    header.write_bytes(content)
    cases = [header]
    if trials > 1:
        cases.append(folder / "bomb.mp4")
        make_bomb(cases[-1])
    for file in cases:
        worker = Worker(DataConfig().probe_memory_mb)
        worker.start()
        limits = {"max_frame_pixels": DataConfig().max_frame_pixels, "max_file_pixels": DataConfig().max_file_pixels}
        started = time.monotonic()
        answer = worker.check({"path": str(file), **limits}, probe.STARTUP_SECONDS)
        seconds = time.monotonic() - started
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        megabytes = int(status.split("VmHWM:")[1].split()[0]) / 1024
        worker.stop()
        outcome.figures[file.name] = f"{file.stat().st_size / 1000:.0f} kB, {seconds:.2f} s, {megabytes:.0f} MB"
        is_fine = seconds < LIMIT_SECONDS and megabytes < LIMIT_MB and "oversized" in str(answer.get("error"))
        outcome.count(is_fine, f"{file.name}: {answer}, {seconds:.2f} s, {megabytes:.0f} MB")
    return outcome


def make_bomb(file: Path) -> None:
    """50 black frames of 8000 x 8000."""
    import imageio_ffmpeg

    source = ["-f", "lavfi", "-i", "color=black:s=8000x8000:r=25", "-frames:v", "50"]
    coding = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-threads", "1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *coding, str(file)]
    subprocess.run(command, check=True)


@fault("F12", "cache workers killed three times per run, another number of them each time", "8/8 byte-equal", 8, 0)
def cache_under_kills(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    arguments = cache_kills.prepare(folder)
    started = time.monotonic()
    children.run("cache_latents", arguments, folder / "log")
    seconds = time.monotonic() - started
    expected = cache_kills.digests(cache_kills.latents(arguments))
    killed = 0
    for _ in range(trials):
        shutil.rmtree(cache_kills.latents(arguments).parent)
        num_jobs = [random.randrange(1, 6)]
        while len(num_jobs) <= cache_kills.NUM_KILLS:
            num_jobs.append(random.choice([count for count in range(1, 6) if count != num_jobs[-1]]))
        delays = [random.uniform(0, seconds / 10) for _ in range(cache_kills.NUM_KILLS)]
        result = cache_kills.trial(arguments, num_jobs, delays)
        killed += sum(entry["killed"] for entry in result["kills"])
        outcome.count(cache_kills.digests(cache_kills.latents(arguments)) == expected, f"{result}")
    outcome.figures = {"processes killed": killed}
    return outcome
