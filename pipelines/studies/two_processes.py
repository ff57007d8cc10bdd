"""The demo chain in two processes beside one: docs/results/two_processes.json and .md.

python pipelines/studies/two_processes.py WORK

Every stage of `make demo` under `torchrun --nproc-per-node 2`, one torchrun per stage, and the same chain in one
process: with three seeds, and once with micro-batches of half a batch, which is what each of two processes sees. The
same command goes on; 50 minutes on 2 cores.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipelines.chain import needed_stages
from pipelines.inputs.experiment import Experiment
from pipelines.run.config import load_config
from pipelines.run.folder import git_commit, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo.yaml"
RESULTS = ROOT / "docs" / "results" / "two_processes.json"
SEEDS = (0, 1, 2)
# half of each global batch of demo.yaml
HALVES = ("motion.loop.micro_batch_size=4", "vae.loop.micro_batch_size=2", "latte.loop.micro_batch_size=16")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
HEAD = """# The demo chain in two processes

Made by `python pipelines/studies/two_processes.py WORK` on a CPU: every stage of `make demo` by itself under
`torchrun --nproc-per-node 2`, and the chain in one process: with three seeds, and once with micro-batches of half a
batch, which is what each of two processes sees. Two processes train on the same batches as one with the same seed, but
sums are rounded in another order, and training makes small differences large.

"""
LEGEND = f"""
**noise**: the largest difference between two of the runs in one process. **off**: two processes against one process
with half micro-batches, both with seed {SEEDS[0]}. Accuracies count 48 to 64 videos; one of them is 0.02.
"""


def call(script: str, arguments: list[str], log: Path, launcher: tuple[str, ...] = ()) -> float:
    """Seconds that a script took; ends with what it said where it fails."""
    command = [sys.executable, *launcher, str(ROOT / "pipelines" / f"{script}.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": "1"} if launcher else {})
    started = time.monotonic()
    with log.open("ab") as file:
        code = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False).returncode
    if code:
        sys.exit(f"{script} ended with {code}: {log.read_text()[-2000:]}")
    return round(time.monotonic() - started, 1)


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    stages = [stage.STAGE for stage in needed_stages(load_config(Experiment, [str(DEMO)], DEMO))]
    runs = {f"one-{seed}": [f"run.name=one-{seed}", f"run.seed={seed}"] for seed in SEEDS}
    runs["halves"] = ["run.name=halves", f"run.seed={SEEDS[0]}", "run.threads=1", *HALVES]
    runs["two"] = ["run.name=two", f"run.seed={SEEDS[0]}", "run.threads=1"]
    seconds: dict[str, float] = {}
    for name, options in runs.items():
        arguments, log = [str(DEMO), f"run.root={work}", *options], work / f"{name}.log"
        if not (work / name / "report" / "summary.json").exists():
            if name == "two":
                taken = [call(stage, arguments, log, TORCHRUN) for stage in stages]
                write_json(work / "two.json", dict(zip(stages, taken, strict=True)))
            else:
                write_json(work / f"{name}.json", {"chain": call("chain", arguments, log)})
        seconds[name] = round(sum(json.loads((work / f"{name}.json").read_text()).values()), 1)
    write(compare(work), seconds, stages)


def scores(run: Path) -> dict[str, float]:
    """Every score of a finished chain."""
    content = json.loads((run / "report" / "summary.json").read_text())
    found = content["reconstruction"] | content["generation"]
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def compare(work: Path) -> dict[str, dict[str, Any]]:
    """{score: what each run has, and what that comes to}."""
    one, two = [scores(work / name) for name in (*(f"one-{seed}" for seed in SEEDS), "halves")], scores(work / "two")
    if two.keys() != one[0].keys():
        sys.exit(f"two processes give other scores: {sorted(two.keys() ^ one[0].keys())}")
    found = {}
    for name, value in two.items():
        values = [run[name] for run in one]
        noise, off = max(values) - min(values), abs(value - values[-1])
        found[name] = {"one_process": values, "two_processes": value, "noise": noise, "off": off}
    return found


def write(found: dict[str, Any], seconds: dict[str, float], stages: list[str]) -> None:
    """The record and its page."""
    write_json(RESULTS, {"scores": found, "seconds": seconds, "stages": stages, "git_commit": git_commit()})
    one = [*(f"one process, seed {seed}" for seed in SEEDS), f"the same, half micro-batches, seed {SEEDS[0]}"]
    rows = [["score", *one, f"two processes, seed {SEEDS[0]}", "noise", "off", "off <= noise"]]
    rows.append(["---"] * len(rows[0]))
    for name, entry in found.items():
        numbers = [*entry["one_process"], entry["two_processes"], entry["noise"], entry["off"]]
        is_within = "yes" if entry["off"] <= entry["noise"] else "no"
        rows.append([f"`{name}`", *(f"{number:.4g}" for number in numbers), is_within])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    times = ", ".join(f"{name}: {value:.0f} s" for name, value in seconds.items())
    page = HEAD + "\n".join(lines) + "\n" + LEGEND + f"\nSeconds in all, some beside other work: {times}.\n"
    if not any(entry["off"] for entry in found.values()):
        page += (
            "\nTwo processes and one with half micro-batches add in the same order: every score is the same number.\n"
        )
    write_text(RESULTS.with_suffix(".md"), page)
    print(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
