"""What scores do to the state of a device, tested without one: TF32 off and cuDNN on, random states left alone."""

import pytest
import torch

from pipelines.metrics import random_state
from pipelines.metrics.full_precision import full_precision
from pipelines.metrics.random_state import seeded


def precisions() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.mark.parametrize("chosen", ["none", "tf32", "ieee"])
def test_products_keep_their_bits_and_cudnn_stays_on(chosen: str) -> None:
    before, was_on = precisions(), torch.backends.cudnn.enabled
    try:
        torch.backends.cuda.matmul.fp32_precision = chosen
        own = precisions()
        with full_precision():
            assert precisions() == ("ieee", "ieee") and torch.backends.cudnn.enabled == was_on
        assert precisions() == own
        with pytest.raises(KeyError), full_precision():
            raise KeyError
        assert precisions() == own
    finally:
        torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


def test_the_older_switches_can_still_be_read_afterwards() -> None:
    with full_precision():
        pass
    assert torch.backends.cudnn.allow_tf32 in (True, False) and torch.backends.cuda.matmul.allow_tf32 in (True, False)


def test_seeded_work_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1):
        assert torch.equal(torch.rand(3), first)


def test_the_states_of_all_gpus_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` seeds them all."""
    kept: list[list[int]] = []
    original = torch.random.fork_rng

    def recorded(devices: list[int]) -> object:
        kept.append(devices)
        return original(devices=[])

    monkeypatch.setattr(random_state.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(random_state.torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(random_state.torch.random, "fork_rng", recorded)
    with seeded(0):
        pass
    assert kept == [[0, 1, 2]]
