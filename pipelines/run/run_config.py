"""The section `run` that every experiment has: which run, where, and on what it runs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunConfig:
    name: str = "demo"  # name of the run: all its stages write below root/name
    root: str = "runs"  # folder of all runs
    seed: int = 0  # seed of every random draw of the run
    device: str = "auto"  # auto (a GPU when there is one), cpu or cuda
    dry_run: bool = False  # print the resolved configuration, sizes and where output would go, then stop
    threads: int = 0  # CPU threads of torch, in each process; 0 = torch's own choice
    cpu_processes: int = (
        1  # processes that share the work of a stage on the cores of a CPU; a GPU needs no more than one
    )

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith((".", "/")) or ".." in Path(self.name).parts:
            raise ValueError(f"run.name is {self.name!r}, but must be a folder name such as demo or ucf101/base")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"run.device is {self.device!r}, but must be auto, cpu or cuda")
        if self.threads < 0:
            raise ValueError(f"run.threads is {self.threads}, but must be 0 or more")
        if self.cpu_processes < 1:
            raise ValueError(f"run.cpu_processes is {self.cpu_processes}, but must be 1 or more")
