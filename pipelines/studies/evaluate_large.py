"""evaluate on many videos, killed once and resumed: python -m pipelines.studies.evaluate_large [study.key=value ...]

2048 real clips and as many samples of 16 frames of 128 x 128, from the embedded moving shapes with other seeds, are
scored by pipelines/evaluate.py, in two processes under torchrun where the machine has two cores. The first call is
ended by SIGKILL while it computes features; the same command goes on.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import prepare_data
from pipelines.data.shape_drawing import render
from pipelines.data.synthetic import LOOKS, draw_scene, textured_paint
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.scores import scores_folder
from pipelines.parts.evaluate.features import CHUNK
from pipelines.run.config import load_config
from pipelines.studies.code_hash import REPOSITORY
from pipelines.studies.experiments import DEMO, TINY
from pipelines.studies.result_rows import Rows, markdown_table
from pipelines.studies.study import Case, Measured, Study, StudySection, main

FRAMES, SIDE, SEED_OF_SAMPLES = 16, 128, 7
NUM_VIDEOS, TINY_VIDEOS = 2048, 8
GB = 1e9


def arguments_of(folder: Path, num_videos: int, tiny: bool) -> list[str]:
    """What `evaluate` is called with."""
    side, held_out = (32, 1) if tiny else (SIDE, 8)
    counts = f"train_per_class: {num_videos // 8}, validation_per_class: {held_out}"
    shapes = f"{{resolution: {side}, num_frames: {FRAMES}, {counts}}}"
    data = [f"data.shapes={shapes}", f"data.resolution={side}", "data.num_frames=13"]
    own = [f"evaluate.samples={folder / 'samples'}", f"evaluate.num_videos={num_videos}", "evaluate.i3d_precision=fp32"]
    run = [f"run.root={folder / 'runs'}", "run.name=large", "run.device=cpu", "run.threads=1"]
    return [str(REPOSITORY / DEMO), *(TINY if tiny else ()), *data, *own, *run]


def prepare(folder: Path, num_videos: int, arguments: Sequence[str]) -> None:
    """The real clips as .avi files, the samples as arrays in folders named as their classes; what is there stays."""
    config = load(arguments)
    prepare_data.run(config)
    look = LOOKS[config.data.shapes.look]
    for number in range(num_videos):
        motion = look.motions[number % len(look.motions)]
        path = folder / "samples" / motion / f"{number:05d}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng([SEED_OF_SAMPLES, number])
            scene = draw_scene(look, random)
            paint = textured_paint(random, config.data.resolution)
            np.save(path.with_name("part"), render(scene, motion, FRAMES, paint))
            path.with_name("part.npy").replace(path)


def load(arguments: Sequence[str]) -> Experiment:
    """The experiment behind these arguments."""
    return load_config(Experiment, list(arguments), REPOSITORY / DEMO)


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """evaluate as a user calls it, one process per core."""
    count = min(os.cpu_count() or 1, 2)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    command = [sys.executable, *launcher, str(REPOSITORY / "pipelines" / "evaluate.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def family(process: int) -> list[int]:
    """A process and all that it started, directly or not, as far as they live."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found = [process]
    for member in found:  # grows while it is gone through
        found += [child for child, parent in parents.items() if parent == member]
    return found


class Memory:
    """The largest resident memory of a process and all that it started, together, looked at twice a second."""

    def __init__(self, process: int) -> None:
        self.process, self.peak_bytes, self.peak_of_one = process, 0, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._done.wait(0.5):
            sizes = [self._pages(member) * page for member in family(self.process)]
            self.peak_bytes, self.peak_of_one = max(self.peak_bytes, sum(sizes)), max(self.peak_of_one, *sizes)

    def _pages(self, process: int) -> int:
        """Resident pages of a process, mapped files (libraries, videos) not counted; 0 when it has ended."""
        with contextlib.suppress(OSError, ValueError):
            resident, shared = (int(field) for field in Path(f"/proc/{process}/statm").read_text().split()[1:3])
            return resident - shared
        return 0

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()


def feature_files(folder: Path) -> dict[str, int]:
    """{file of features: when it was written}."""
    runs = folder / "runs"
    found = [*(runs / ".real_features").rglob("*.safetensors"), *(runs / "large").rglob("features/*/*.safetensors")]
    return {str(file.relative_to(runs)): file.stat().st_mtime_ns for file in found}


def call(arguments: Sequence[str], folder: Path, kill_at: int = 0) -> dict[str, Any]:
    """Run evaluate to its end, or kill all its processes when there are `kill_at` files of features."""
    started, process = time.monotonic(), start(arguments, folder / "evaluate.log")
    memory = Memory(process.pid)
    while process.poll() is None:
        if kill_at and len(feature_files(folder)) >= kill_at:
            for member in family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            process.wait()
        time.sleep(0.2)
    memory.stop()
    seconds, peak = round(time.monotonic() - started, 1), round(memory.peak_bytes / GB, 3)
    return {
        "seconds": seconds,
        "peak_gb": peak,
        "peak_gb_of_one": round(memory.peak_of_one / GB, 3),
        "code": process.returncode,
    }


def cases(options: StudySection) -> list[Case]:
    """One case."""
    return [Case({"videos": TINY_VIDEOS if options.tiny else NUM_VIDEOS, "frames": FRAMES, "side": SIDE}, 0)]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Prepare, kill, resume, and the record of it; what the folder holds already of the videos is not made again."""
    for case in waiting:
        folder, num_videos = work.absolute(), case.arguments["videos"]
        arguments = arguments_of(folder, num_videos, options.tiny)
        prepare(folder, num_videos, arguments)
        scored = folder / "runs" / "large" / "evaluate" / scores_folder(load(arguments)).name
        for made in (scored, folder / "runs" / ".real_features"):
            shutil.rmtree(made, ignore_errors=True)
        num_files = 2 * -(-num_videos // CHUNK)
        killed = call(arguments, folder, kill_at=max(num_files // 3, 1))
        before = feature_files(folder)
        resumed = call(arguments, folder)
        after = feature_files(folder)
        if killed["code"] == 0 or resumed["code"] != 0:
            raise ValueError(f"evaluate was not killed or did not go on, see {folder / 'evaluate.log'}")
        generation = json.loads((scored / "scores.json").read_text())["generation"]
        record = next(value for name, value in generation.items() if name.endswith("fvd16_record"))
        yield Measured(case, facts(killed, resumed, before, after) | {"id": record["id"]})


def facts(
    killed: dict[str, Any], resumed: dict[str, Any], before: dict[str, int], after: dict[str, int]
) -> dict[str, Any]:
    """What both calls took, and whether what the first one computed was kept."""
    return {
        "minutes": round((killed["seconds"] + resumed["seconds"]) / 60, 2),
        "peak_gb": max(killed["peak_gb"], resumed["peak_gb"]),
        "peak_gb_of_one": max(killed["peak_gb_of_one"], resumed["peak_gb_of_one"]),
        "files_at_kill": len(before),
        "files": len(after),
        "files_kept": all(after.get(name) == written for name, written in before.items()),
    }


def table(rows: Rows) -> str:
    """What it took."""
    lines = []
    for row in rows:
        found, shape = row.values, row.arguments
        kept = "all kept" if found["files_kept"] else "NOT kept"
        cells = [
            f"{shape['videos']} against {shape['videos']}",
            f"{shape['frames']} x {shape['side']} x {shape['side']}",
        ]
        cells += [f"{found['minutes']:.0f}", f"{found['peak_gb']:.1f}", f"{found['peak_gb_of_one']:.1f}"]
        lines.append(([row], [*cells, f"{found['files_at_kill']} of {found['files']}, {kept}", f"`{found['id']}`"]))
    head = ["videos", "of", "minutes", "peak GB of all processes", "of one", "files of features at the kill", "id"]
    return markdown_table(head, lines)


STUDY = Study(
    "evaluate_large",
    ("pipelines.metrics", "pipelines.parts.evaluate", "pipelines.evaluate", "pipelines.run", "pipelines.data", DEMO),
    cases,
    measure,
    {"evaluation": table},
)

if __name__ == "__main__":
    main(STUDY)
