"""Ctrl-C, SIGTERM and SIGUSR1 during training: noted, so that the loop can finish its step, save and say how to go on.

And what a child process does when its parent is killed.
"""

import multiprocessing
import os
import shlex
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

# SIGUSR1 is what Slurm is asked to send some time before a job's end; SIGTERM what everything else sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interruption:
    """Context manager: `.signal_number` is 0 until one of SIGNALS comes. A second one acts at once, as usual."""

    def __init__(self) -> None:
        self.signal_number = 0
        self.command = shlex.join(["python", *sys.argv])
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()
        if os.getpid() == self._process:  # forked data workers inherit this handler and stay quiet
            print("\nfinishing this step, then saving; once more stops at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()


def end_with_parent() -> None:
    """End this child process, made by `multiprocessing`, as soon as its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a child process has a parent to end with"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
