"""Reading clips in worker processes: a file on which a worker dies, or never comes to an end, is named."""

import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset, get_worker_info

T = TypeVar("T")


class ReadWatch:
    """Workers note in files of `folder` what they read, since when; and an alarm ends one that reads for too long.

    An alarm and not an exception: a decoder in an endless loop never comes back to Python.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.folder = ""

    def pieces(self, path: Path, pieces: Iterator[T]) -> Iterator[T]:
        """The same pieces of the file `path`; in a worker, each within `seconds` or the process ends."""
        worker = get_worker_info()
        if worker is None or not self.folder:
            yield from pieces
            return
        note = Path(self.folder) / str(worker.id)
        while True:
            note.write_text(f"{os.getpid()} {time.monotonic()} {path}", encoding="utf-8", errors="surrogateescape")
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            try:
                piece = next(pieces, None)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                note.write_text("")
            if piece is None:
                return
            yield piece

    def explain(self, message: str) -> str | None:
        """What the workers whose numbers stand in `message` were reading when they ended; None where they were not."""
        ended = set(re.findall(r"\d+", message))
        for note in Path(self.folder).iterdir():
            pid, since, path = [*note.read_text(encoding="utf-8", errors="surrogateescape").split(" ", 2), "", "", ""][
                :3
            ]
            if pid in ended:
                took_long = time.monotonic() - float(since) > self.seconds
                what = f"took longer than {self.seconds:g} s" if took_long else "ended the process that read it"
                return (
                    f"{path} {what} (data.probe_seconds, num_workers): restore this file and start the same command "
                    "again, or remove it and begin another run (run.name=)"
                )
        return None


def read_ahead(dataset: Dataset, watch: ReadWatch, num_workers: int, **options: Any) -> Iterator[Any]:
    """What a DataLoader with `options` gives; with workers, what they read is watched.

    Raises:
        ValueError: a worker died, or read for too long; names the file.
    """
    if not num_workers:
        yield from DataLoader(dataset, **options)
        return
    with tempfile.TemporaryDirectory(prefix="reading-", ignore_cleanup_errors=True) as folder:
        watch.folder = folder
        before = signal.getsignal(signal.SIGCHLD)
        batches = iter(DataLoader(dataset, num_workers=num_workers, **options))
        if threading.current_thread() is threading.main_thread():
            # The loader would raise its error at any place of the program; without this it does when asked for more.
            signal.signal(signal.SIGCHLD, before)
        try:
            yield from batches
        except RuntimeError as error:
            reason = watch.explain(str(error)) if "DataLoader worker" in str(error) else None
            if reason is None:
                raise
            raise ValueError(reason) from error
        finally:
            del batches  # ends the workers, before what they write into goes
