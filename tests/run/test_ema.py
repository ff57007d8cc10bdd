"""Averaged weights: the moving average against its formula; any length from stored snapshots, resumed and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_runs import assert_equal, experiment, result
from toy_task import Regressor, run_toy

from pipelines.run.ema import AveragedWeights
from pipelines.run.ema_snapshots import (
    LENGTHS,
    PowerAverages,
    SnapshotLoopConfig,
    averaged_weights,
    correlation,
    exponent_of,
    mixture,
    snapshots,
)

LOOP = SnapshotLoopConfig(steps=12, lr=0.01, log_every=1, checkpoint_every=5, ema_snapshot_every=3)


@pytest.mark.parametrize(("decay", "has_warmup"), [(0.0, True), (0.5, True), (0.999, True), (0.9, False)])
def test_the_moving_average_is_that_of_diffusers_bit_for_bit(decay: float, has_warmup: bool) -> None:
    """Its EMAModel, written out: over many updates, with a parameter that is frozen for some of them."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (7, 5)]
    ours = AveragedWeights(parameters, decay, has_warmup)
    theirs = [parameter.detach().clone() for parameter in parameters]
    for optimization_step in range(1, 40):
        parameters[1].requires_grad_(optimization_step > 10)
        for parameter in parameters:
            parameter.data += torch.randn(parameter.shape, generator=generator)
        step = max(0, optimization_step - 1)
        warm = 0.0 if step <= 0 else min((1 + step) / (10 + step), decay)
        for average, parameter in zip(theirs, parameters, strict=True):
            if parameter.requires_grad:
                average.lerp_(parameter.data, 1 - (warm if has_warmup else decay))
            else:
                average.copy_(parameter.data)
        ours.update()
        assert all(torch.equal(a, b) for a, b in zip(ours.averages, theirs, strict=True))
    assert ours.num_updates == 39


@pytest.mark.parametrize("length", [0.02, 0.05, 0.1, 0.25])
def test_the_profile_has_the_standard_deviation_asked_for(length):
    exponent, (times, step) = exponent_of(length), np.linspace(0, 1, 200001, retstep=True)
    profile = (exponent + 1) * times**exponent
    mean = (times * profile).sum() * step
    assert profile.sum() * step == pytest.approx(1, rel=1e-3)
    assert (((times - mean) ** 2 * profile).sum() * step) ** 0.5 == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3])
def test_lengths_that_do_not_exist_are_refused(length):
    with pytest.raises(ValueError, match="share of the training"):
        exponent_of(length)


def test_inner_products_equal_integrals():
    times, step = np.linspace(0, 100, 100001, retstep=True)
    kinds = [(17.0, 40), (7.0, 100), (0.7, 65)]
    profiles = [np.where(times <= t, (g + 1) * times**g / t ** (g + 1), 0) for g, t in kinds]
    expected = np.array([[(a * b).sum() * step for b in profiles] for a in profiles])
    exponents, ends = zip(*kinds, strict=True)
    np.testing.assert_allclose(correlation(exponents, ends, exponents, ends), expected, rtol=2e-3)


def walk(num_steps: int, folder: Path, every: int) -> torch.Tensor:
    """A random walk of weights with snapshots on the way; returns it, (steps, n)."""
    generator, weights = torch.Generator().manual_seed(0), torch.nn.Parameter(torch.ones(3000))
    averages, path = PowerAverages([weights]), []
    for step in range(1, num_steps + 1):
        weights.data += 0.05 * torch.randn(3000, generator=generator)
        path.append(weights.detach().clone())
        averages.update([weights], step)
        if step % every == 0:
            averages.save(folder, ["weights"], step)
    return torch.stack(path).double()


@pytest.mark.parametrize("length", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2])
def test_any_length_is_close_to_that_average_computed_directly(tmp_path, length):
    """16 snapshots: the error is a small part of what the averaging changes."""
    path = walk(320, tmp_path, every=20)
    steps, exponent = torch.arange(1, 321, dtype=torch.float64), exponent_of(length)
    shares = (steps ** (exponent + 1) - (steps - 1) ** (exponent + 1)) / 320 ** (exponent + 1)
    assert float(shares.sum()) == pytest.approx(1)
    directly = (shares.reshape(-1, 1) * path).sum(0)
    ours = averaged_weights(tmp_path, length)["weights"].double()
    assert (ours - directly).norm() / directly.norm() < 2e-3
    assert (ours - directly).norm() < 0.02 * (path[-1] - directly).norm()


def test_weights_that_stand_still_stay_what_they_are():
    exponents, steps = [exponent_of(length) for _ in range(5) for length in LENGTHS], np.repeat(np.arange(1, 6) * 10, 2)
    for length in (0.01, 0.07, 0.25):
        assert mixture(exponents, steps, exponent_of(length), 50).sum() == pytest.approx(1)


def averages_of(root: Path) -> dict[str, torch.Tensor]:
    folder = root / "one" / "train_toy"
    return {
        f"{step} {length} {name}": tensor
        for step in snapshots(folder)
        for length in (0.03, 0.07)
        for name, tensor in averaged_weights(folder, length).items()
    }


@pytest.mark.parametrize("stops", [(2, 7), (4, 5, 11)])
def test_a_resumed_run_has_the_same_snapshots(tmp_path, stops):
    """Also where the shorter trainings end between two snapshots; a run that is done keeps its last one."""
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    loop = replace(LOOP, steps=13)
    run_toy(experiment(unbroken, loop=loop))
    for stop in (*stops, 13, 13):
        run_toy(experiment(resumed, loop=replace(loop, steps=stop)))
    assert list(snapshots(resumed / "one" / "train_toy")) == [3, 6, 9, 12, 13]
    assert_equal(result(unbroken)[0], result(resumed)[0])
    assert {"ema_0.05/first.weight", "ema_0.1/first.weight"} < result(resumed)[0].keys()
    assert_equal(averages_of(unbroken), averages_of(resumed))


def test_the_weights_fit_the_model_and_lie_between_those_of_the_training(tmp_path):
    run_toy(experiment(tmp_path, loop=LOOP))
    folder = tmp_path / "one" / "train_toy"
    model = Regressor.from_pretrained(folder / "last")
    short, long = (averaged_weights(folder, length) for length in (0.02, 0.2))
    model.load_state_dict(short)
    trained = result(tmp_path)[0]
    for name in short:
        last = trained[f"regressor/{name}"]
        assert (short[name] - last).norm() < (long[name] - last).norm()


def test_a_run_without_snapshots_is_named(tmp_path):
    with pytest.raises(ValueError, match="ema_snapshot_every"):
        averaged_weights(tmp_path, 0.1)
