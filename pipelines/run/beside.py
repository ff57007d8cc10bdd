"""More processes of one command on the CPU cores of this machine, as torchrun starts them, without being asked to.

At small sizes two processes of one thread each do more work in a second than one process with two threads.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pipelines.run.ranks import num_started

SECONDS_TO_END = 60.0  # what is left to the others once this process is done
_Helper = tuple[subprocess.Popen[bytes], IO[bytes]]


@contextmanager
def processes_beside(name: str, num_processes: int, device: str) -> Iterator[None]:
    """While the body runs, the same command line runs `num_processes` - 1 times more, and this process is the first.

    Nothing is started where a launcher did so already, where a GPU does the work, or for cores that are not there. One
    that fails ends this process too, with its last words; where the body fails the others are ended.
    """
    count = min(num_processes, os.cpu_count() or 1)
    if count < 2 or num_started() > 1 or _uses_gpu(device):
        yield
        return
    import torch

    threads = max(1, (os.cpu_count() or 1) // count)
    torch.set_num_threads(threads)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": threads}
    helpers = [_start(shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(1, count)]
    os.environ |= {key: str(value) for key, value in (shared | {"RANK": 0, "LOCAL_RANK": 0}).items()}
    is_over = threading.Event()
    for helper in helpers:
        threading.Thread(target=_watch, args=(name, helper, is_over), daemon=True).start()
    try:
        yield
    except RuntimeError:
        # gloo says no more than that a connection was lost
        if not (words := _last_words(helpers)):
            raise
        print(f"{name}: {words}", file=sys.stderr)
        sys.exit(1)
    finally:
        is_over.set()
        error = sys.exception()
        # interrupted, they save what they have to
        is_in_order = error is None or isinstance(error, KeyboardInterrupt) or _exit_code(error) > 2
        _end(helpers, SECONDS_TO_END if is_in_order else 0)


def _exit_code(error: BaseException) -> int:
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 0


def _uses_gpu(device: str) -> bool:
    import torch

    return device != "cpu" and torch.accelerator.is_available()


def _start(places: dict[str, object]) -> _Helper:
    # What it says the first process says too, unless it fails alone. Closed by `_end`.
    words = tempfile.TemporaryFile()  # noqa: SIM115
    environment = os.environ | {key: str(value) for key, value in places.items()}
    command = [sys.executable, *sys.orig_argv[1:]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=words), words


def _watch(name: str, helper: _Helper, is_over: threading.Event) -> None:
    """End this process where another failed while this one waits for it."""
    helper[0].wait()
    if not is_over.wait(timeout=5) and (words := _last_words([helper])):  # it may be about to fail for the same reason
        print(f"{name}: {words}", file=sys.stderr, flush=True)
        os._exit(1)


def _last_words(helpers: list[_Helper], seconds: float = 10.0) -> str:
    """What the first one that failed said at last; empty where none did."""
    for process, words in helpers:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        if code:
            words.seek(0)
            lines = words.read().decode(errors="replace").strip().splitlines()
            return f"a process beside this one ended with {code} ({lines[-1] if lines else 'it said nothing'})"
    return ""


def _end(helpers: list[_Helper], seconds: float) -> None:
    for process, words in helpers:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        words.close()
