"""The fault suite: python tests/faults/run.py [FAULT ...] [trials=N], or make faults.

Runs the named faults, or all, each with so many trials as its line of the table asks for; after each one writes
docs/results/faults.json and faults.md. Exits with 1 where one did not reach its figure.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

torch.set_num_threads(1)

from faults import endurance, files, refusals, saving, several, training  # noqa: E402, F401
from faults.trials import FAULTS, run_fault  # noqa: E402

from pipelines.run.folder import git_commit, write_json, write_text  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "faults.json"
HEAD = """# Faults, injected

Made by `make faults` on a CPU. A trial is a real fault: processes killed by signals, bytes flipped in files, full and
read-only file systems, damaged and hostile videos. Every trial that did not end as it must counts against the figure.

| | fault | trials that ended as they must | asked for | figures | seconds |
|---|---|---|---|---|---|
"""
LEGEND = """
F18: the autoencoder's loss has kinks (L1, soft thresholds, cells of the warp). There a gradient jumps by 1e-4 where the
weights differ by 1e-7, and such differences grow from step to step: twelve steps are shown beside what another size of
micro-batches does in one process. torchrun: an accuracy may differ by one of 16 videos, all other scores by 1 %; the
chain of the demo, and its noise: [two_processes.md](two_processes.md).
"""


def main(arguments: list[str]) -> None:
    """Run, and write the tables as far as they are."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument] or list(FAULTS)
    unknown = [name for name in [*names, *options] if name not in (*FAULTS, "trials")]
    if unknown:
        sys.exit(f"there is no fault {unknown[0]}: choose from {', '.join(FAULTS)}")
    known = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows: dict[str, dict[str, Any]] = {row["fault"]: row for row in known}
    has_failed = False
    for name in names:
        trials = int(options.get("trials", FAULTS[name].trials))
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{name}-"))
        print(f"{name}: {FAULTS[name].what}, {trials} trials", flush=True)
        try:
            rows[name] = run_fault(name, folder / "runs", trials)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"    {passed(rows[name])} {rows[name]['figures']} in {rows[name]['seconds']} s", flush=True)
        for failure in rows[name]["failures"]:
            print(f"    FAILED: {failure}", flush=True)
        has_failed |= rows[name]["passed"] < rows[name]["trials"]
        write([rows[name] for name in sorted(rows, key=place)])
    sys.exit(1 if has_failed else 0)


def place(name: str) -> tuple[bool, int]:
    """F1, F2, ..., then those without a number."""
    return not name[1:].isdigit(), int(name[1:]) if name[1:].isdigit() else 0


def passed(row: dict[str, Any]) -> str:
    """The figure of a row as text."""
    return f"not run: {row['not_run']}" if row["not_run"] else f"{row['passed']}/{row['trials']}"


def write(rows: list[dict[str, Any]]) -> None:
    """Both forms of the table."""
    write_json(RESULTS, {"torch": torch.__version__, "git_commit": git_commit(), "rows": rows})
    lines = []
    for row in rows:
        figures = "; ".join(f"{name}: {value}" for name, value in row["figures"].items())
        cells = [row["fault"], row["what"], passed(row), row["target"], figures, f"{row['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    write_text(RESULTS.with_suffix(".md"), HEAD + "\n".join(lines) + "\n" + LEGEND)


if __name__ == "__main__":
    main(sys.argv[1:])
