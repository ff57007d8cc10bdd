"""Faults while state is written, and of what stands on the disk: F1 to F3."""

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from faults import children
from faults.children import Runs, end, said, start
from faults.trials import (
    Outcome,
    fault,
    last_logged,
    newest_step,
    require_equal,
    tensors_of,
    wait_for_step,
)

from pipelines.data.clip_index import ClipIndex
from pipelines.data.latent_cache import LatentCache
from pipelines.inputs.models import resolve_model
from pipelines.run.checkpoint import load_latest

VAE = ("prepare_data", "train_motion")
EVERY_STEP = ("vae.loop.checkpoint_every=1", "vae.adaptation.phase_two_step=2")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000  # linux/sched.h


@fault("F1", "SIGKILL at random moments of training that saves every step", "100/100, <= 1 step lost", 100, 3)
def kill_while_saving(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, VAE)
    stage = runs.path("killed", "train_vae")
    arguments = runs.fresh("killed", "train_vae", *EVERY_STEP, "vae.loop.steps=100000")
    before, within, lost = 0, 0, 0
    for _ in range(trials):
        (child,) = start("train_vae", arguments, runs.log)
        with outcome.trial():
            wait_for_step(newest_step, stage, before + 1, child.is_alive)
            time.sleep(random.uniform(0, 0.5))
            assert child.is_alive(), said(runs.log)
            child.kill()
            assert end([child]) == [-signal.SIGKILL]
            within += any((stage / "checkpoints").glob(".step-*"))
            found = load_latest(stage / "checkpoints")
            assert found is not None and found.step >= before, f"step {before} was lost"
            lost = max(lost, last_logged(stage) - found.step)
            assert last_logged(stage) - found.step <= 1, f"logged step {last_logged(stage)}, saved {found.step}"
            before = found.step
    last = (*EVERY_STEP, f"vae.loop.steps={before + 1}")
    with outcome.trial("equal to a run without kills"):
        children.run("train_vae", runs.fresh("unbroken", "train_vae", *last), runs.log)
        children.run("train_vae", runs.arguments("killed", *last), runs.log)
        require_equal(stage, runs.path("unbroken", "train_vae"))
    outcome.figures = {"killed within a save": within, "steps in all": before, "most steps lost": lost}
    return outcome


@fault("F2", "disk full at random moments of training; read-only file system", "10/10 + 10/10, found in < 5 s", 20, 2)
def no_room(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, VAE)
    seconds = []
    for trial in range(trials):
        result = folder / f"result{trial}.json"
        kind = full_disk if trial % 2 == 0 else read_only
        context = children.multiprocessing.get_context("forkserver")
        supervisor = context.Process(target=kind, args=(folder, result, random.random(), f"{folder}/supervisor{trial}"))
        supervisor.start()
        with outcome.trial(kind.__name__):
            code = end([supervisor])
            if not result.exists() and code == [3]:
                return Outcome(not_run="this user may not mount a file system")
            assert code == [0], Path(f"{folder}/supervisor{trial}").read_text()[-1500:]
            answer = json.loads(result.read_text())
            assert answer["code"] == 2 and answer["intact"], answer
            assert "Traceback" not in answer["said"], answer["said"]
            if kind is read_only:
                seconds.append(answer["seconds"])
                assert answer["seconds"] < 5, "read-only is found too late"
    outcome.figures = {"CPU seconds until read-only is found, imports apart": max(seconds, default=0.0)}
    assert runs
    return outcome


def own_disk(place: Path, megabytes: int) -> None:
    """A small file system of its own at `place`, seen by this process and its children; exits with 3 without it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        os._exit(3)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    place.mkdir(exist_ok=True)
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place)],
    ):
        if subprocess.run(command, check=False).returncode:
            os._exit(3)


def inside(place: Path, folder: Path, log: str) -> tuple[Path, Callable[[str], int]]:
    """A run on the small file system: its stage folder, and what starts the training (returns a process id)."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(descriptor, 2)
    shutil.copytree(folder / "base", place / "base", ignore=shutil.ignore_patterns(".lock", "tensorboard"))
    arguments = Runs(folder, ()).arguments("base", f"run.root={place}", "vae.loop.checkpoint_every=1")

    def train(steps: str) -> int:
        child = os.fork()
        if child == 0:
            try:
                children.work("train_vae", [*arguments, f"vae.loop.steps={steps}"], f"{log}.child", {}, "")
            except SystemExit as ended:
                os._exit(int(ended.code or 0))
            finally:
                os._exit(1)
        return child

    return place / "base" / "train_vae", train


def full_disk(folder: Path, result: Path, chance: float, log: str) -> None:
    """Training on 16 MB, of which something takes nearly all at a random step; then room is made, and it goes on."""
    place = folder / "disk"
    own_disk(place, 16)
    stage, train = inside(place, folder, log)
    child = train("100000")
    steps = 1 + int(3 * chance)
    wait_for_step(newest_step, stage, steps, lambda: os.waitpid(child, os.WNOHANG)[0] == 0)
    kept = int(chance * sum(file.stat().st_size for file in (stage / "checkpoints").rglob("*") if file.is_file()) / 2)
    with open(place / "filler", "wb") as filler:
        while (free := shutil.disk_usage(place).free - kept) > 0:
            filler.write(b"\0" * min(free, 1 << 16))
            filler.flush()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    saved = load_latest(stage / "checkpoints")
    intact = saved is not None and saved.step >= steps
    (place / "filler").unlink()
    last = os.waitstatus_to_exitcode(os.waitpid(train(str(newest_step(stage) + 2)), 0)[1])
    goes_on = last == 0 and len(tensors_of(stage)) > 0
    text = Path(f"{log}.child").read_text()
    result.write_text(json.dumps({"code": code, "intact": intact and goes_on, "said": text[-1500:]}))


def read_only(folder: Path, result: Path, chance: float, log: str) -> None:
    """A file system that cannot be written any more is found before anything is trained."""
    place = folder / "disk"
    own_disk(place, 16)
    stage, train = inside(place, folder, log)
    assert os.waitstatus_to_exitcode(os.waitpid(train("1"), 0)[1]) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    before = cpu_seconds()
    code = os.waitstatus_to_exitcode(os.waitpid(train("3"), 0)[1])
    seconds = cpu_seconds() - before
    text = Path(f"{log}.child").read_text()
    intact = newest_step(stage) == 1 and load_latest(stage / "checkpoints") is not None
    result.write_text(json.dumps({"code": code, "intact": intact, "said": text[-1500:], "seconds": round(seconds, 2)}))


def cpu_seconds() -> float:
    """Of all children that have ended: a machine that does other things makes them last longer, not work more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@fault("F3", "one byte flipped in any file of checkpoints, models, latents, index", "50/50 found and named", 50, 10)
def flip_a_byte(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, (*VAE, "train_vae", "cache_latents"))
    base = folder / "base"
    files = [
        *(path for path in newest_checkpoint(base / "train_vae").iterdir()),
        *(
            path
            for name in ("last", "best")
            if (base / "train_vae" / name).is_dir()
            for path in model_files(base, name)
        ),
        *(path for path in (base / "cache_latents" / "latents").iterdir() if path.name != "plan.json"),
        base / "prepare_data" / "index.json",
    ]
    harmless = 0
    for _ in range(trials):
        file = random.choice(files)
        content = file.read_bytes()
        place = random.randrange(len(content))
        while file.suffix == ".json" and content[place : place + 1].isspace():
            place, harmless = random.randrange(len(content)), harmless + 1  # means the same: nothing to be found
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :])
        with outcome.trial(f"{file.name} at {place}"):
            said_about = what_a_reader_says(base, file)
            assert file.name in said_about or file.parent.name in said_about, f"nobody names it: {said_about!r}"
        file.write_bytes(content)
    assert what_a_reader_says(base, files[0]) == "", "an intact file is not complained about"
    outcome.figures = {"files": len(files), "spaces skipped": harmless}
    assert runs
    return outcome


def newest_checkpoint(stage: Path) -> Path:
    return stage / "checkpoints" / f"step-{newest_step(stage):08d}"


def model_files(base: Path, name: str) -> list[Path]:
    return list((base / "train_vae" / name).iterdir())


def what_a_reader_says(base: Path, file: Path) -> str:
    """What comes of reading the part that `file` belongs to, as the stages read it; "" for no complaint."""
    heard: list[str] = []
    writer, sys.stderr = sys.stderr, Heard(heard)  # a damaged checkpoint is named there, and the one before is taken
    try:
        if "checkpoints" in file.parts:
            step = newest_step(base / "train_vae")
            found = load_latest(base / "train_vae" / "checkpoints")
            assert found is not None and (found.step < step or not heard), "a damaged checkpoint was taken"
        elif "train_vae" in file.parts:
            resolve_model("", base, "train_vae", file.parent.name)
        elif "prepare_data" in file.parts:
            ClipIndex.load(file)
        elif file.suffix == ".json" and file.name != "metadata.json":
            return record_is_noticed(base, file)
        else:
            cache = LatentCache(base / "cache_latents" / "latents", verify=False)
            assert torch.stack([z.sum() for z in cache.latents(range(len(cache))).values()]).isfinite().all()
    except ValueError as error:
        heard.append(str(error))
    finally:
        sys.stderr = writer
    return " ".join(heard)


def record_is_noticed(base: Path, record: Path) -> str:
    """A shard's record is read when a cache is made or gone on with: there it makes the shard be written again."""
    from pipelines.data.latent_cache_writer import LatentCacheWriter

    plan = json.loads((record.parent / "plan.json").read_text())
    names = ("clips", "classes", "provenance", "clips_per_shard", "storage", "open_loop")
    writer = LatentCacheWriter(record.parent, *(plan[name] for name in names))
    shard = int(record.stem.removeprefix("shard-"))
    return record.name if shard in writer.missing() else ""


class Heard:
    """A place for what is printed."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def write(self, text: str) -> None:
        self.heard.append(text)

    def flush(self) -> None:
        pass
