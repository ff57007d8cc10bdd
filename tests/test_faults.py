"""The quick part of the fault suite (tests/faults/run.py): the same faults, each with a few trials."""

from pathlib import Path

import pytest
from faults import files, refusals, saving, training
from faults.trials import FAULTS, run_fault

assert files and refusals and saving and training, "imported for the faults that they enter"
QUICK = {name: fault.quick for name, fault in FAULTS.items() if fault.quick}


@pytest.mark.faults
@pytest.mark.parametrize("name", QUICK)
def test_fault(name: str, tmp_path: Path) -> None:
    row = run_fault(name, tmp_path / "runs", QUICK[name])
    if row["not_run"]:
        pytest.skip(row["not_run"])
    assert row["passed"] == row["trials"] >= 1, row["failures"]
