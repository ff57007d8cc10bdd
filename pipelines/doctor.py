"""Say whether training can start on this machine: python pipelines/doctor.py [CONFIG.yaml ...] [key=value ...]

One line per check, and under each problem the command that mends it. Exits with 0 when training can start, with 1 when
it cannot. Needs nothing but Python itself: it is there for the day when nothing else can be imported.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 11)
OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
SECONDS_PER_CHILD = 300.0
SHARED_MEMORY_GB = 1.0  # data workers hand clips over through it
# Package -> what is imported of it, where that is not its own name.
MODULES = {
    "diffusers": "diffusers.models.modeling_utils",
    "imageio-ffmpeg": "imageio_ffmpeg",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "huggingface-hub": "huggingface_hub",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: how serious, what, and the command that mends it ("" where nothing is to be mended)."""

    level: str
    text: str
    mend: str = ""


def examine(arguments: Sequence[str]) -> Iterator[Finding]:
    """All findings, in the order in which problems cause each other. arguments: configuration files and key=value."""
    if sys.version_info < OLDEST_PYTHON:
        yield Finding(PROBLEM, f"Python {platform.python_version()} is older than 3.11", "make PYTHON=python3.12 demo")
        return
    yield Finding(
        OK, f"Python {platform.python_version()}, {platform.platform(terse=True)}, {os.cpu_count()} CPU cores"
    )
    packages = list(declared_packages())
    yield from check_versions(packages)
    yield from check_pair()
    broken = list(check_imports(packages))
    yield from broken
    if any(finding.level == PROBLEM for finding in broken):
        yield Finding(NOTE, "GPU, video and configuration are not checked before the imports work")
        yield from check_folder(Path("runs"), 0)
        return
    answers = ask_machine(arguments)
    yield from check_gpu(answers)
    yield from check_video(answers)
    yield from check_needs(answers.get("needs", {"error": "no answer"}))


def declared_packages() -> Iterator[tuple[str, str, bool]]:
    """(name, oldest version or "", whether this machine may do without it) of every package in pyproject.toml."""
    import tomllib  # in the standard library since the oldest Python that is supported

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"]:
        found = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?", requirement)
        assert found, f"{requirement!r} in pyproject.toml is no requirement"
        yield found[1], found[2] or "", ";" in requirement


def locked_version(package: str) -> str:
    """The version of a package in requirements.lock; "" where it is not in there."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def install_command(*packages: str) -> str:
    """The command that installs packages at the versions of the lock."""
    pinned = [f"{name}=={version}" if (version := locked_version(name)) else name for name in packages]
    return shlex.join([sys.executable, "-m", "pip", "install", *pinned])


def installed_version(package: str) -> str:
    """The version that is installed; "" for none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def as_numbers(version: str) -> list[int]:
    """2.15.0+cu132 -> [2, 15, 0]."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def check_versions(packages: Sequence[tuple[str, str, bool]]) -> Iterator[Finding]:
    """Missing and too old packages; else one line with the versions that matter most."""
    missing = [name for name, _, is_optional in packages if not installed_version(name) and not is_optional]
    if missing:
        yield Finding(PROBLEM, f"not installed: {', '.join(missing)}", install_command(*missing))
    for name, oldest, is_optional in packages:
        version = installed_version(name)
        if version and oldest and as_numbers(version) < as_numbers(oldest):
            yield Finding(PROBLEM, f"{name} {version} is older than {oldest}", install_command(name))
        if is_optional and not version:
            yield Finding(NOTE, f"{name} is not installed: PyAV reads all videos, more slowly", install_command(name))
    shown = ("torch", "torchvision", "diffusers", "accelerate", "decord", "av", "omegaconf")
    versions = ", ".join(f"{name} {version}" for name in shown if (version := installed_version(name)))
    yield Finding(OK, versions or "none of the packages")


def check_pair() -> Iterator[Finding]:
    """Whether torchvision is the one that was built for the installed torch."""
    torch, torchvision = installed_version("torch"), installed_version("torchvision")
    if not torch or not torchvision:
        return
    for line in importlib.metadata.requires("torchvision") or []:
        if found := re.match(r"torch\b[^=<>!]*(==|>=)\s*([\d.]+)", line):
            relation, required = found.groups()
            has, needs = as_numbers(torch), as_numbers(required)
            if has < needs or (relation == "==" and has != needs):
                text = f"torchvision {torchvision} needs torch {relation}{required}, but torch {torch} is installed"
                yield Finding(PROBLEM, text, install_command("torch", "torchvision"))
                return
    yield Finding(OK, f"torch {torch} and torchvision {torchvision} belong together")


def run_child(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A Python process that finds this project, with its output; one that takes too long counts as killed."""
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": search}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    alarm = threading.Timer(SECONDS_PER_CHILD, child.kill)
    alarm.start()
    output, errors = child.communicate()
    alarm.cancel()
    return subprocess.CompletedProcess(command, child.returncode, output, errors)


def import_all(modules: Sequence[str]) -> dict[str, str]:
    """Import modules in a process that may crash; {module: reason} of those that fail."""
    failed, left = {}, list(modules)
    while left:
        child = run_child([str(ROOT / "pipelines" / "parts" / "doctor" / "imports.py"), *left])
        answers = [json.loads(line) for line in child.stdout.splitlines()]
        failed |= {answer["module"]: answer["error"] for answer in answers if answer["error"]}
        left = left[len(answers) :]
        if left:  # it ended while it imported the first of these
            failed[left.pop(0)] = f"the import ends Python (exit {child.returncode})"
    return failed


def check_imports(packages: Sequence[tuple[str, str, bool]]) -> Iterator[Finding]:
    """Import every installed package, and then the stages."""
    owners = {MODULES.get(name, name): name for name, _, _ in packages if installed_version(name)}
    failed = import_all([*owners, "pipelines.chain"])
    if not failed:
        yield Finding(OK, f"all {len(owners)} packages and the stages can be imported")
        return
    # A broken torch or torchvision takes others with it: only the first cause is to be mended.
    first = next((name for name in ("torch", "torchvision") if name in failed), next(iter(failed)))
    others = [owners.get(module, module) for module in failed if module != first]
    text = f"{first} cannot be imported ({failed[first]})"
    if first in owners:
        pair = ("torch", "torchvision") if first in ("torch", "torchvision") else (owners[first],)
        mend = install_command(*pair).replace("install", "install --force-reinstall --no-deps", 1)
    else:
        mend = shlex.join([sys.executable, "-c", f"import {first}"])
    yield Finding(PROBLEM, text + (f"; nor can {', '.join(others)}" if others else ""), mend)


def ask_machine(arguments: Sequence[str]) -> dict[str, Any]:
    """What parts/doctor/machine.py answers; {"error": reason} under each name where it ends without an answer."""
    child = run_child(["-m", "pipelines.parts.doctor.machine", *arguments])
    lines = child.stdout.strip().splitlines()
    if child.returncode == 0 and lines:
        answers: dict[str, Any] = json.loads(lines[-1])
        return answers
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    reason = {"error": f"the check ended with exit code {child.returncode}: {last}"}
    return dict.fromkeys(("gpus", "video", "needs"), reason)


def check_gpu(answers: dict[str, Any]) -> Iterator[Finding]:
    """GPUs that compute, or why there are none."""
    found, needs = answers["gpus"], answers.get("needs", {})
    wanted = needs.get("device") == "cuda"
    if isinstance(found, dict):
        yield Finding(PROBLEM, f"a GPU is there but does not compute ({found['error']})", "nvidia-smi")
    elif found:
        yield Finding(OK, f"{len(found)} GPU: {'; '.join(found)}")
    elif Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        build = f"torch is built for CUDA {answers.get('cuda')}" if answers.get("cuda") else "torch is a CPU build"
        level = PROBLEM if wanted else NOTE
        yield Finding(level, f"an NVIDIA driver is there, but torch sees no GPU ({build})", "nvidia-smi")
    else:
        text = "no GPU: everything runs on the CPU"
        yield Finding(PROBLEM if wanted else OK, text, "add run.device=auto to the command" if wanted else "")


def check_video(answers: dict[str, Any]) -> Iterator[Finding]:
    """FFmpeg writes a video that every reader reads."""
    if isinstance(answers["video"], dict):
        yield Finding(PROBLEM, f"video: {answers['video']['error']}", install_command("imageio-ffmpeg", "av"))
    else:
        yield Finding(OK, f"FFmpeg writes a video, {' and '.join(answers['video'])} read it")


def check_needs(needs: dict[str, Any]) -> Iterator[Finding]:
    """Folders, room and weights for the given configuration."""
    if "error" in needs:
        yield Finding(PROBLEM, f"configuration: {needs['error']}", "correct the configuration or the argument")
        return
    yield from check_folder(Path(needs["root"]), needs["disk_bytes"])
    if needs["data"] and not Path(needs["data"]).exists():
        yield Finding(PROBLEM, f"data.root {needs['data']} does not exist", "add data.root=FOLDER to the command")
    if needs["compiled"] and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "c++")):
        names = " and ".join(f"{name}.compile" for name in needs["compiled"])
        yield Finding(PROBLEM, f"{names} need a C++ compiler", "apt install g++")
    shared = Path("/dev/shm")
    if needs["num_workers"] and shared.is_dir() and shutil.disk_usage(shared).total < SHARED_MEMORY_GB * 1e9:
        text = f"/dev/shm has {gigabytes(shutil.disk_usage(shared).total)}: data workers may run out of it"
        yield Finding(NOTE, text, "docker run --shm-size=8g, or num_workers: 0")
    for file in needs["weights"]:
        if file["present"] and not file["wrong"]:
            yield Finding(OK, f"{file['present']} is there")
            continue
        text = file["wrong"] or f"the weights {file['name']} are missing: for {file['use']}"
        yield Finding(PROBLEM if file["needed"] else NOTE, text, file["command"])


def check_folder(folder: Path, needed_bytes: int) -> Iterator[Finding]:
    """Whether files in `folder`, or in the first folder above it that exists, can be written, renamed and locked."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    other = "add run.root=FOLDER to the command, on a disk that can be written and locked"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as name:
            file = Path(name) / "file"
            with file.open("wb") as opened:
                opened.write(b"x" * 4096)
                opened.flush()
                os.fsync(opened.fileno())
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(file, Path(name) / "renamed")
    except OSError as error:
        yield Finding(PROBLEM, f"{place} cannot be written and locked ({error.strerror})", other)
        return
    free = shutil.disk_usage(place).free
    room = f"{gigabytes(free)} free in {place}, where {folder} goes"
    if free < needed_bytes:
        yield Finding(PROBLEM, f"{room}, but checkpoints and weights take {gigabytes(needed_bytes)}", other)
    else:
        yield Finding(OK, room + (f"; checkpoints and weights take {gigabytes(needed_bytes)}" if needed_bytes else ""))


def gigabytes(count: float) -> str:
    """Units of 10^9 bytes."""
    return f"{count / 1e9:.3g} GB"


def main() -> None:
    """Print every finding as it comes, then the verdict."""
    arguments = sys.argv[1:]
    if any(argument in ("--help", "-h") for argument in arguments):
        print(__doc__)
        sys.exit(0)
    num_problems = 0
    for finding in examine(arguments):
        num_problems += finding.level == PROBLEM
        print(f"{finding.level:<8} {finding.text}", flush=True)
        if finding.mend:
            print(f"{'':<8} mend: {finding.mend}", flush=True)
    print("training can start" if not num_problems else f"training cannot start: {num_problems} to mend, from above")
    sys.exit(1 if num_problems else 0)


if __name__ == "__main__":
    main()
