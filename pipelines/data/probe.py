"""Finds out what every video file really holds, in worker processes with a time limit and a memory cap."""

import functools
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from pipelines.data.data_config import DataConfig

STARTUP_SECONDS = 60.0  # for the imports of a worker on a busy machine


@functools.cache
def say_without_limit() -> None:
    """Once per process."""
    print("files are checked without data.probe_memory_mb: this system sets no such limit", file=sys.stderr)


class Worker:
    """One checking process; started on demand and again after each crash or time-out."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        limits = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.data.probe_worker", str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | limits | {"PYTHONPATH": search},
        )
        answer = self._answer(STARTUP_SECONDS) or {}
        if "RLIMIT_AS" in answer.get("refused", []):
            say_without_limit()
        if not answer.get("ready"):
            self.stop()
            raise RuntimeError(
                f"the process that checks files did not start with data.probe_memory_mb={self.memory_mb}; "
                "python -m pipelines.data.probe_worker 950 shows why"
            )

    def check(self, request: dict[str, int | str], seconds: float) -> dict[str, int | float | str]:
        """Answer of the worker; {"error": ..., "passing": True} where it crashed or took too long."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer = self._answer(seconds)
        if answer is None:
            hangs = self.process.poll() is None
            code = self.stop()
            reason = f"checking took longer than {seconds:g} s" if hangs else f"the decoder crashed on it (exit {code})"
            return {"error": reason, "passing": True}
        return answer

    def _answer(self, seconds: float) -> dict | None:
        deadline, text = time.monotonic() + seconds, b""
        answers = self.process.stdout.fileno()
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([answers], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(answers, 65536) if ready else b""
            if not part:
                if ready:  # end of file: it died; wait, so that poll() knows
                    self.process.wait()
                return None
            text += part
        return json.loads(text)

    def stop(self) -> int | None:
        if self.process is None:
            return None
        self.process.kill()
        code = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None
        return code


def probe_files(
    root: Path, paths: Sequence[str], config: DataConfig, cache: Path | None = None
) -> dict[str, dict[str, int | float | str]]:
    """Checks files relative to `root`; see probe_worker.check for the answers.

    Args:
        root: folder that the paths are relative to.
        paths: files to check.
        config: limits (probe_seconds, probe_memory_mb, probe_workers, max_frame_pixels, max_file_pixels).
        cache: file of answers by (path, size, mtime): a second call reads them, a killed one goes on from there.

    Returns:
        {path: answer}, every path answered.
    """
    known = _read_cache(cache)
    limits = {"max_frame_pixels": config.max_frame_pixels, "max_file_pixels": config.max_file_pixels}
    requests, results = {}, {}
    for path in paths:
        request = {"path": str((root / path).absolute()), **limits}
        key = _cache_key(request)
        if key in known:
            results[path] = known[key]
        else:
            requests[path] = (request, key)
    if not requests:
        return results

    cache_file = cache.open("a") if cache else None
    if cache_file and cache_file.tell() and not cache.read_text().endswith("\n"):
        cache_file.write("\n")  # a killed run left a part of a line
    checked = _check_in_workers({path: request for path, (request, _) in requests.items()}, config)
    for path, answer in tqdm(checked, total=len(requests), desc="checking files", unit="file", disable=None):
        passing = answer.pop("passing", False)  # a busy machine may explain it: not remembered
        results[path] = answer
        if cache_file and not passing:
            cache_file.write(json.dumps({"key": requests[path][1], "answer": answer}) + "\n")
            cache_file.flush()
    if cache_file:
        cache_file.close()
    return results


def _check_in_workers(requests: dict[str, dict], config: DataConfig) -> Iterator[tuple[str, dict]]:
    """Yields (path, answer) as they come; each thread has its own worker process."""
    mine, workers = threading.local(), []

    def check(request: dict[str, int | str]) -> dict[str, int | float | str]:
        if not hasattr(mine, "worker"):
            mine.worker = Worker(config.probe_memory_mb)
            workers.append(mine.worker)
        return mine.worker.check(request, config.probe_seconds)

    count = min(config.probe_workers or min(os.cpu_count() or 1, 16), len(requests))
    pool = ThreadPoolExecutor(count)
    try:
        futures = {pool.submit(check, request): path for path, request in requests.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:  # also when interrupted: what is not yet begun is dropped
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.stop()


def _cache_key(request: dict[str, int | str]) -> str:
    import av

    try:
        status = os.stat(request["path"])
        identity = [status.st_size, status.st_mtime_ns]
    except OSError:
        identity = [-1, -1]
    return json.dumps([*request.values(), *identity, av.__version__])


def _read_cache(cache: Path | None) -> dict[str, dict]:
    known = {}
    if cache and cache.exists():
        for line in cache.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a killed run
                continue
            known[entry["key"]] = entry["answer"]
    return known
