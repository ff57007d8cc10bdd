"""The fault suite: python tests/faults/run.py [FAULT ...] [trials=N], or make faults.

Runs the named faults, or all, each with so many trials as its line of the table asks for; after each one writes
docs/results/faults.json and faults.md. Exits with 1 where one did not reach its figure.
"""

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

torch.set_num_threads(1)

from faults import endurance, files, refusals, saving, several, training  # noqa: E402, F401
from faults.trials import FAULTS, run_fault  # noqa: E402

from pipelines.studies.faults import passed, record  # noqa: E402


def main(arguments: list[str]) -> None:
    """Run, and write the tables as far as they are."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument] or list(FAULTS)
    unknown = [name for name in [*names, *options] if name not in (*FAULTS, "trials")]
    if unknown:
        sys.exit(f"there is no fault {unknown[0]}: choose from {', '.join(FAULTS)}")
    has_failed = False
    for name in names:
        trials = int(options.get("trials", FAULTS[name].trials))
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{name}-"))
        print(f"{name}: {FAULTS[name].what}, {trials} trials", flush=True)
        try:
            row = run_fault(name, folder / "runs", trials)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"    {passed(row)} {row['figures']} in {row['seconds']} s", flush=True)
        for failure in row["failures"]:
            print(f"    FAILED: {failure}", flush=True)
        has_failed |= row["passed"] < row["trials"]
        record(name, {key: value for key, value in row.items() if key != "fault"})
    sys.exit(1 if has_failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
