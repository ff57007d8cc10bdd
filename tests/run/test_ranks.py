"""Which device a stage takes."""

import pytest
import torch

from pipelines.run import ranks


@pytest.mark.parametrize(
    ("wanted", "has_cuda", "on_cpu"), [("auto", False, True), ("auto", True, False), ("cpu", True, True)]
)
def test_auto_takes_cuda_or_the_cpu_whatever_other_accelerator_there_is(
    wanted: str, has_cuda: bool, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apple's GPUs lack fp64, which noise schedules and updates need."""
    asked = {}

    class State:
        _shared_state: dict = {}

        def __init__(self, **options: object) -> None:
            asked.update(options)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(ranks, "PartialState", State)
    ranks.connect(wanted)
    assert asked["cpu"] is on_cpu
