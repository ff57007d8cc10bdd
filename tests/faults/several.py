"""Several processes give what one gives: training at the same global batch, and the whole chain under torchrun."""

import json
from pathlib import Path

from faults import children
from faults.children import NANO, Runs, end, said, start
from faults.training import torchrun, wait_for
from faults.trials import Outcome, fault, largest_loss_difference

from pipelines.run.checkpoint import load_latest

ALL = children.STAGES
LOSSES = 1e-5
STEPS = 20


@fault("two ranks", "20 steps of VAE, Latte and split Latte on two ranks (gloo)", "losses within 1e-5 of one", 3, 0)
def two_ranks(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, ALL)
    cases = (
        ("vae", "train_vae", ("vae.adaptation.phase_two_step=10",)),
        ("latte", "train_latte", ()),
        ("split latte", "train_latte", ("latte.shard_weights=true",)),
    )
    for name, stage, options in cases[:trials]:
        steps = f"{children.TRAINED[stage]}.loop.steps={STEPS}"
        children.run(stage, runs.fresh(f"{name} one", stage, steps, *options), runs.log)
        children.run(stage, runs.fresh(f"{name} two", stage, steps, *options), runs.log, world=2)
        assert load_latest(runs.path(f"{name} two", stage) / "checkpoints").state["processes"] == 2, "they never met"
        difference = largest_loss_difference(runs.path(f"{name} one", stage), runs.path(f"{name} two", stage))
        outcome.figures[f"{name}, largest difference of a loss"] = float(f"{difference:.2g}")
        outcome.count(difference <= LOSSES, f"{name}: {difference:.2g}")
    return outcome


@fault("torchrun", "torchrun --nproc-per-node 2 of every stage, and of the chain in one", "scores agree to 1 %", 2, 0)
def under_torchrun(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    codes = end(start("chain", [str(NANO), f"run.root={folder / 'one'}"], folder / "one.log"))
    assert codes == [0], said(folder / "one.log")
    ways = {
        "chain": ["chain"],
        "stages": [
            *("prepare_data", "train_motion", "train_vae", "reconstruct", "cache_latents", "train_latte"),
            *("sample", "evaluate", "report", "export"),
        ],
    }
    for way, stages in list(ways.items())[:trials]:
        with outcome.trial(way):
            for stage in stages:
                log = folder / f"{way}-{stage}.log"
                agent = torchrun([str(NANO), f"run.root={folder / way}"], log, f"pipelines/{stage}.py")
                assert wait_for(agent) == 0, f"{stage}: {log.read_text()[-2000:]}"
            one, two = (summary(folder / name) for name in ("one", way))
            assert one.keys() == two.keys(), one.keys() ^ two.keys()
            off = {name: abs(two[name] / value - 1) for name, value in one.items() if value}
            worst = max(off, key=lambda name: off[name])
            outcome.figures[f"{way}, largest relative difference of a score"] = f"{off[worst]:.2g} ({worst})"
            assert off[worst] <= 0.01, f"{worst}: {one[worst]} and {two[worst]}"
    return outcome


def summary(root: Path) -> dict[str, float]:
    """Every score of a finished chain."""
    content = json.loads((root / "nano" / "report" / "summary.json").read_text())
    scores = content["reconstruction"] | content["generation"]
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
