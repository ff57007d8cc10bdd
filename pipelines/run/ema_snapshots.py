"""Averaged weights whose length is chosen after training (Karras et al. 2024, "Analyzing and Improving the Training
Dynamics of Diffusion Models", section 3 and appendix C).

During training two averages with power-function profiles are kept and stored every n steps, as <stage>/ema/step-N/;
later the profile of any other length is approximated by a sum of the stored ones, and so are the weights.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipelines.run.checkpoint import publish
from pipelines.run.manifest import require_intact, write_manifest
from pipelines.run.ranks import connect
from pipelines.run.sharding import local, whole
from pipelines.run.task import LoopConfig, require_least

LENGTHS = (0.05, 0.10)  # standard deviation of the profile, as a share of the steps so far (sigma_rel)
LONGEST = 0.25
FOLDER = "ema"


@dataclass(frozen=True)
class SnapshotLoopConfig(LoopConfig):
    """A training loop that stores snapshots."""

    ema_snapshot_every: int = 0  # steps between snapshots for sample.ema_length, each as large as the model; 0 = none

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, {"ema_snapshot_every": 0})


def snapshot_interval(config: LoopConfig) -> int:
    """Steps between two snapshots of a training; 0 = it stores none."""
    return config.ema_snapshot_every if isinstance(config, SnapshotLoopConfig) else 0


def exponent_of(length: float) -> float:
    """The exponent gamma of the profile tau^gamma whose standard deviation is `length` of its span.

    The paper's relation length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for its largest root. Raises
    ValueError for a length beyond 0 to 0.25, where the profile no longer grows towards its end.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(f"ema_length is {length}, choose a share of the training above 0 and up to {LONGEST}.")
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-6))


def correlation(
    exponents: Sequence[float], steps: Sequence[int], others: Sequence[float], ends: Sequence[int]
) -> np.ndarray:
    """Inner products of profiles p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t], (n, m).

    With t_a <= t_b the integral of the product up to t_a is, for exponents a and b,
    (a + 1)(b + 1) / (a + b + 1) (t_a / t_b)^b / t_b; the other case by symmetry.
    """
    a, t_a = (np.array(values, dtype=np.float64)[:, None] for values in (exponents, steps))
    b, t_b = (np.array(values, dtype=np.float64)[None, :] for values in (others, ends))
    ratio = np.where(t_a <= t_b, (t_a / t_b) ** b, (t_b / t_a) ** a)
    return (a + 1) * (b + 1) / (a + b + 1) * ratio / np.maximum(t_a, t_b)


def mixture(exponents: Sequence[float], steps: Sequence[int], exponent: float, end: int) -> np.ndarray:
    """Weights (n,) of stored profiles (exponent and last step of each) in the least-squares fit of one more.

    Unlike the paper's they add up to 1, so that weights which did not move come back as they are.
    """
    gram = correlation(exponents, steps, exponents, steps)
    target = correlation(exponents, steps, [exponent], [end])
    # neighbouring profiles are nearly parallel: a ridge far below the fit's error keeps huge weights, which would
    # multiply the rounding of the stored numbers, out of the solution
    gram = gram + 1e-9 * np.diag(np.diag(gram))
    ones = np.ones((len(gram), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])  # the last row: the sum, by a Lagrange multiplier
    return np.linalg.solve(system, np.concatenate([target, [[1.0]]]))[:-1, 0]


class PowerAverages:
    """The two averages of a list of parameters, updated every step, and their snapshots on disk."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.exponents = [exponent_of(length) for length in LENGTHS]
        self.averages = [[parameter.detach().clone() for parameter in parameters] for _ in LENGTHS]

    @torch.no_grad()
    def update(self, parameters: Sequence[torch.nn.Parameter], step: int) -> None:
        """Take in the weights after `step` steps (1, 2, ...).

        average = beta average + (1 - beta) weights, beta = (1 - 1 / step)^(gamma + 1): those of the first step replace
        what was there, and after t steps those of step s have the share that is the integral of the profile over it,
        (s^(gamma + 1) - (s - 1)^(gamma + 1)) / t^(gamma + 1).
        """
        for exponent, averages in zip(self.exponents, self.averages, strict=True):
            beta = (1 - 1 / step) ** (exponent + 1)
            torch._foreach_lerp_([local(x) for x in averages], [local(x) for x in parameters], 1 - beta)

    def save(self, folder: Path, names: Sequence[str], step: int) -> None:
        """Write <folder>/ema/step-N/average-<length>.safetensors in fp16: together as large as the weights.

        To be called by all processes; the first one writes.
        """
        halves = [[whole(average.half()) for average in averages] for averages in self.averages]
        if connect().process_index:
            return

        def write(target: Path) -> None:
            for length, averages in zip(LENGTHS, halves, strict=True):
                saved = [average.cpu().contiguous() for average in averages]
                save_file(dict(zip(names, saved, strict=True)), target / file_name(length))
            write_manifest(target)

        publish(folder / FOLDER / f"step-{step:08d}", write)


def file_name(length: float) -> str:
    """The file of one average in a snapshot's folder."""
    return f"average-{length:g}.safetensors"


def snapshots(folder: Path) -> dict[int, Path]:
    """{step: folder} of a stage's snapshots, oldest first."""
    found = [path for path in (folder / FOLDER).glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return {int(path.name.removeprefix("step-")): path for path in sorted(found, key=lambda path: path.name)}


def drop_snapshots(folder: Path, after: int, every: int) -> None:
    """Remove what an unbroken run would not have: snapshots of steps that a resumed run makes anew, and the one that
    stood at the end of a shorter training."""
    for step, path in snapshots(folder).items():
        if step > after or step % every:
            shutil.rmtree(path)


def averaged_weights(folder: Path, length: float) -> dict[str, torch.Tensor]:
    """The weights {name: float32} that an average of `length` would have at the last snapshot of a stage's folder.

    length: standard deviation of the average as a share of the training. Raises ValueError where there is no snapshot.
    """
    found = snapshots(folder)
    if not found:
        raise ValueError(
            f"{folder} holds no snapshots of averaged weights: train with loop.ema_snapshot_every above 0, or leave "
            "ema_length at 0."
        )
    for path in found.values():
        require_intact(path, "remove that folder, and the average is made from the other snapshots.")
    steps = [step for step in found for _ in LENGTHS]
    exponents = [exponent_of(own) for _ in found for own in LENGTHS]
    weights = mixture(exponents, steps, exponent_of(length), max(found))
    files = [path / file_name(own) for path in found.values() for own in LENGTHS]
    total: dict[str, torch.Tensor] = {}
    for weight, file in zip(weights, files, strict=True):
        for name, stored in load_file(file).items():
            total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + weight * stored.double()
    return {name: tensor.float() for name, tensor in total.items()}
