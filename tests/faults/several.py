"""Several processes give what one gives: training at the same global batch, and the whole chain under torchrun."""

import json
from pathlib import Path

import torch
from faults import children
from faults.children import NANO, Runs, end, said, start
from faults.training import torchrun, wait_for
from faults.trials import Outcome, fault, largest_difference, largest_loss_difference

from pipelines.run.checkpoint import load_latest

ALL = children.STAGES
LOSSES = 1e-5
STEPS = 20
NUM_VIDEOS = 16  # of nano.yaml: two of each of eight classes, sampled and real


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


@fault("F18", "resumed by 2, 1 and 3 ranks in turn; Latte also split over them (FSDP2)", "weights <= 1e-6 apart", 3, 0)
def other_world_sizes(folder: Path, trials: int) -> Outcome:
    """Counted are six steps. Twelve are shown for the VAE, beside what rounding alone does in one process.

    Its loss has kinks (L1, soft thresholds, cells of the warp): there a gradient jumps by 1e-4 where the weights differ
    by 1e-7, and such differences grow from step to step, with or without a resume.
    """
    outcome, runs = Outcome(), Runs(folder, ALL)
    base = ("latte.loop.global_batch_size=6", "latte.loop.lr=1e-4", "vae.loop.global_batch_size=6", "vae.loop.lr=1e-4")
    cases = (
        ("vae", "train_vae", ()),
        ("latte", "train_latte", ()),
        ("split latte", "train_latte", ("latte.shard_weights=true",)),
    )

    def trained(name: str, stage: str, worlds: dict[int, int], *options: str) -> Path:
        """A run that went on to each of these steps with that many ranks."""
        arguments = runs.fresh(name, stage, *base, *options)
        for steps, world in worlds.items():
            children.run(stage, [*arguments, f"{children.TRAINED[stage]}.loop.steps={steps}"], runs.log, world)
        state = load_latest(runs.path(name, stage) / "checkpoints").state
        assert state["processes"] == max(worlds.values()), "they never met"
        return runs.path(name, stage)

    for name, stage, options in cases[:trials]:
        one = trained(f"{name} one", stage, {6: 1})
        many = trained(f"{name} many", stage, {2: 2, 4: 1, 6: 3}, *options)
        difference = largest_difference(one, many)
        outcome.figures[f"{name}, largest difference of a weight"] = float(f"{difference:.2g}")
        outcome.count(difference <= 1e-6, f"{name}: {difference:.2g}")
    one = trained("longer, one", "train_vae", {12: 1})
    many = trained("longer, many", "train_vae", {4: 2, 8: 1, 12: 3})
    micro = trained("longer, micro", "train_vae", {12: 1}, "vae.loop.micro_batch_size=1")
    for what, other in {"vae, 12 steps": many, "vae, 12 steps, one process, other micro-batches": micro}.items():
        outcome.figures[what] = float(f"{largest_difference(one, other):.2g}")
    return outcome


@fault("torchrun", "torchrun --nproc-per-node 2 of every stage, and of the chain in one", "scores agree", 2, 0)
def under_torchrun(folder: Path, trials: int) -> Outcome:
    """Scores agree to 1 %, accuracies to one of the 16 videos."""
    outcome = Outcome()
    device = "cpu" if torch.accelerator.is_available() else "auto"  # auto is what nearly everybody leaves
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
                arguments = [str(NANO), f"run.root={folder / way}", f"run.device={device}"]
                agent = torchrun(arguments, log, f"pipelines/{stage}.py")
                assert wait_for(agent) == 0, f"{stage}: {log.read_text()[-2000:]}"
            one, two = (summary(folder / name) for name in ("one", way))
            assert one.keys() == two.keys(), one.keys() ^ two.keys()
            for name, value in one.items():
                off = abs(two[name] - value)
                limit = 1 / NUM_VIDEOS if name.startswith("class_accuracy") else 0.01 * abs(value)
                assert off <= limit, f"{name}: {value} and {two[name]}"
            accuracies = {name for name in one if name.startswith("class_accuracy")}
            off = max(abs(two[name] / one[name] - 1) for name in one.keys() - accuracies if one[name])
            outcome.figures[f"{way}, largest relative difference of a score"] = float(f"{off:.2g}")
            off = max(abs(two[name] - one[name]) for name in accuracies)
            outcome.figures[f"{way}, largest difference of an accuracy"] = float(f"{off:.2g}")
    return outcome


def summary(root: Path) -> dict[str, float]:
    """Every score of a finished chain."""
    content = json.loads((root / "nano" / "report" / "summary.json").read_text())
    scores = content["reconstruction"] | content["generation"]
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
