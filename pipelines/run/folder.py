"""The folder of one stage of one run: lock, settings, inputs, log, outputs. Every stage of the chain works inside one.

runs/<run>/<stage>/  config.yaml  provenance.json  metrics.jsonl  time.json  done.json  (+ what the stage makes)
"""

import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pipelines.run.ranks import is_first

ALWAYS_MAY_CHANGE = ("run.name", "run.root", "run.device", "run.threads", "run.cpu_processes", "run.dry_run")
SECONDS_BETWEEN_TIMES = 10.0
SECONDS_TO_SHARE = 30.0  # how long one waits for a folder that is to be shared: the last of others may just finish it
_held_locks: set[int] = set()


def _forget_locks_in_child() -> None:
    # A forked child shares the parent's lock; without this a surviving worker would keep the folder of a killed stage.
    for descriptor in _held_locks:
        os.close(descriptor)
    _held_locks.clear()


os.register_at_fork(after_in_child=_forget_locks_in_child)


class StageFolder:
    """One stage's folder, used as a context manager: `with StageFolder(root, run, stage).open(settings) as folder:`.

    With several processes (torchrun) only rank 0 locks and writes; the others see the same path.
    """

    def __init__(self, root: str = "runs", run: str = "demo", stage: str = "train_vae") -> None:
        self.run, self.stage = run, stage
        self.path = Path(root) / run / stage
        self.is_main = is_first()
        self._lock: int | None = None
        self._started = self._time_written = time.monotonic()
        self._seconds_before, self._peak_before = 0.0, 0.0

    def open(
        self,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Mapping[str, str]] | None = None,
        may_change: Sequence[str] = (),
        shared: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ) -> "StageFolder":
        """Lock the folder and compare it with what stands there; raises ValueError when it was made otherwise.

        settings: the resolved config sections that the stage depends on, {section: {option: value}}.
        inputs: what other stages or runs it was given, {name: {"path": ..., "hash": ...}}; the hash is compared.
        may_change: dotted globs of options that a later call may change (`"vae.loop.steps"`), besides name and device.
        shared: others may have it open too, if they also say so; `become_only` ends that.
        defaults: like settings, with nothing set: what stands for options that an earlier version did not record.
        """
        if not self.is_main:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written ({error.strerror}): choose another run.root=") from error
        try:
            known_inputs = {name: dict(entry) for name, entry in (inputs or {}).items()}
            self._compare(settings, known_inputs, may_change, defaults or {})
        except BaseException:
            self.close()
            raise
        before = self._read("time.json") or {}
        self._seconds_before, self._peak_before = before.get("seconds", 0.0), before.get("peak_rss_gb", 0.0)
        self._started = time.monotonic()
        return self

    def _take_lock(self, kind: int) -> None:
        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + (SECONDS_TO_SHARE if kind == fcntl.LOCK_SH else 0)
        while True:
            try:
                # the kernel frees it when the process ends, however it ends
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                os.close(lock)
                refusal = f"{self.path} is in use by another process: wait, or choose another run.name="
                raise ValueError(refusal) from error
        self._lock = lock
        _held_locks.add(lock)

    def become_only(self) -> bool:
        """Of the processes that share the folder, let the last one have it for itself: whether this is the last one.

        The others have given up their share by then: each that comes here does, whatever the answer.
        """
        assert self._lock is not None, "only a folder that is open can be had"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # drops the shared lock, then tries
        except BlockingIOError:
            return False
        return True

    def _compare(
        self,
        settings: Mapping[str, Any],
        inputs: dict[str, dict[str, str]],
        may_change: Sequence[str],
        defaults: Mapping[str, Any],
    ) -> None:
        resolved = json.loads(json.dumps(settings))  # tuples as lists: the form they have in the file
        known = self._read("provenance.json")
        if known is not None:
            allowed = (*ALWAYS_MAY_CHANGE, *may_change)
            unset = json.loads(json.dumps(defaults))
            known_settings, new = _flatten(known["settings"]), _flatten(resolved)
            # what stands in for the unrecorded; never a whole table, for a set entry of it does not unsay "empty"
            stand_ins = {name: value for name, value in _flatten(unset).items() if name in new and value != {}}
            old = stand_ins | known_settings
            changed = [
                f"{name} (was {old.get(name, 'absent')!r}, now {new.get(name, 'absent')!r})"
                for name in sorted(old.keys() | new.keys())
                if old.get(name) != new.get(name) and not any(fnmatchcase(name, glob) for glob in allowed)
            ]
            remedy = "choose another run.name=, or remove the folder to make it again"
            if changed:
                raise ValueError(f"{self.path} was made with other settings: {', '.join(changed)}; {remedy}")
            for name in sorted(known["inputs"].keys() | inputs.keys()):
                before, now = known["inputs"].get(name, {}), inputs.get(name, {})
                if before.get("hash") != now.get("hash"):
                    was, is_now = before.get("path", "absent"), now.get("path", "absent")
                    detail = f"its content changed: {is_now}" if was == is_now else f"was {was}, now {is_now}"
                    raise ValueError(f"{self.path} was made from another {name} ({detail}); {remedy}")
            if self.done and known["settings"] == resolved:
                return  # nothing new: the record of the call that made it stays
        write_text(self.path / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, width=120))
        call = {"git_commit": git_commit(), "command": sys.argv}
        earlier = _earlier_calls(known or {}, call)
        provenance = {"settings": resolved, "inputs": inputs, **call, "earlier_calls": earlier}
        write_json(self.path / "provenance.json", provenance)

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if self.is_main:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
            if time.monotonic() - self._time_written > SECONDS_BETWEEN_TIMES:
                self._write_time()

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line cut by a kill is left out."""
        return read_jsonl(self.path / "metrics.jsonl")

    def cut_log(self, last_step: int) -> None:
        """Drop the lines after `last_step`: what an interrupted run logged beyond the checkpoint it resumes from."""
        if self.is_main and (self.path / "metrics.jsonl").exists():
            lines = [json.dumps(line) + "\n" for line in self.read_log() if line.get("step", 0) <= last_step]
            write_text(self.path / "metrics.jsonl", "".join(lines))

    @property
    def done(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None while the stage is not finished."""
        return self._read("done.json")

    def finish(self, outputs: Mapping[str, Any] | None = None) -> None:
        """Mark the stage as done: done.json with seconds (over all resumes), peak_rss_gb and `outputs`.

        A stage that was done already with the same outputs keeps its record.
        """
        outputs = json.loads(json.dumps(dict(outputs or {})))
        if self.is_main and (self.done is None or self.done["outputs"] != outputs):
            self._write_time()
            write_json(self.path / "done.json", {**(self._read("time.json") or {}), "outputs": outputs})

    def reopen(self) -> None:
        """Take the mark away again: the stage has more to do (more steps, say)."""
        if self.is_main:
            (self.path / "done.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Note the time and release the lock."""
        if self._lock is not None:
            _held_locks.discard(self._lock)
            os.close(self._lock)
            self._lock = None

    def _write_time(self) -> None:
        self._time_written = time.monotonic()
        seconds = round(self._seconds_before + self._time_written - self._started, 3)
        write_json(self.path / "time.json", {"seconds": seconds, "peak_rss_gb": max(peak_rss_gb(), self._peak_before)})

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): remove this file, and start the same command again"
            ) from error

    def __enter__(self) -> "StageFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None and not self.done:
            self._write_time()
        self.close()


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill or a power cut leaves the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file ([] when there is none); a last line without its end, cut by a kill, is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def peak_rss_gb() -> float:
    """Largest resident memory so far, 10^9 bytes, of this process or of any one finished child."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(who).ru_maxrss for who in both) * 1024 / 1e9, 3)


def git_commit() -> str:
    """The commit of this source tree, with "+changes" when files differ from it; "unknown" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _earlier_calls(known: Mapping[str, Any], call: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What made the folder before this call, oldest first, each commit and command once; `known` is the old record."""
    before = [*known.get("earlier_calls", []), {name: known[name] for name in call if name in known}]
    kept: list[dict[str, Any]] = []
    for other in before:
        if other and other != call and other not in kept:
            kept.append(other)
    return kept


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
