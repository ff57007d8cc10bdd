"""Training that is stopped, killed, repeated or fed with numbers that are none: F4 to F8."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from faults import children, sabotage
from faults.children import Runs, end, said, start
from faults.trials import (
    LONGEST_WAIT_SECONDS,
    Outcome,
    fault,
    kill,
    last_logged,
    log_of,
    newest_step,
    require_equal,
    wait_for_step,
)

from pipelines.run.checkpoint import load_latest

ROOT = Path(__file__).resolve().parents[2]
TOY = "toy: {loop: {steps: %d, lr: 0.01, log_every: 1, checkpoint_every: %d, global_batch_size: 12}}\n"
GAN = ("vae.gan.weight=0.2", "vae.gan.start_step=3", "vae.gan.discriminator={width: 8, num_layers: 2}")
INTERRUPTED = {signal.SIGTERM: 143, signal.SIGUSR1: 138}


@dataclass(frozen=True)
class Trainer:
    """One thing that is trained, and the options that make it so."""

    name: str
    stage: str
    options: tuple[str, ...]
    reads_ahead: bool = True

    @property
    def loop(self) -> str:
        """Where the options of its loop stand."""
        return f"{children.TRAINED[self.stage]}.loop"


TRAINERS = (
    Trainer("motion", "train_motion", ()),
    Trainer("vae, both phases", "train_vae", ("vae.adaptation.phase_two_step=4",)),
    Trainer("vae, adversarial", "train_vae", (*GAN, "vae.adaptation.phase_two_step=5")),
    Trainer("latte", "train_latte", (), reads_ahead=False),
)
ALL = children.STAGES


def toy(folder: Path, name: str, steps: int, every: int = 10) -> list[str]:
    """The command line of the toy of tests/tiny/toy_task.py."""
    config = folder / f"toy-{steps}-{every}.yaml"
    config.write_text(TOY % (steps, every))
    return [str(config), f"run.root={folder}", f"run.name={name}", "run.device=cpu"]


@fault("F4", "stopped at random steps, 0 and 2 workers: motion, VAE, GAN, Latte", "bit-equal, all", 21, 1)
def stop_and_go_on(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, ALL if trials > 1 else ALL[:2])
    chosen = TRAINERS if trials > 1 else TRAINERS[2:3]
    for trainer in chosen:
        steps = (f"{trainer.loop}.steps=14", f"{trainer.loop}.checkpoint_every=5", *trainer.options)
        unbroken = f"unbroken {trainer.name}"
        children.run(trainer.stage, runs.fresh(unbroken, trainer.stage, *steps), runs.log)
        for number in range(max(trials // 7, 1)):
            for workers in (0, 2) if trainer.reads_ahead and trials > 1 else (0,):
                name = f"{trainer.name} {workers} {number}"
                reading = (f"{trainer.loop}.num_workers={workers}",) if workers else ()
                arguments = runs.fresh(name, trainer.stage, *steps, *reading)
                with outcome.trial(name):
                    stop_once(trainer.stage, arguments, runs, name)
                    children.run(trainer.stage, arguments, runs.log)
                    require_equal(runs.path(name, trainer.stage), runs.path(unbroken, trainer.stage))
    return outcome


def stop_once(stage: str, arguments: list[str], runs: Runs, name: str) -> None:
    """SIGTERM, SIGUSR1 or SIGKILL at a random step."""
    number = random.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
    (child,) = start(stage, arguments, runs.log)
    after = random.randint(1, 8)
    folder = runs.path(name, stage)
    wait_for_step(last_logged, folder, after, child.is_alive)
    kill(child.pid, number)
    (code,) = end([child])
    assert code == INTERRUPTED.get(number, -signal.SIGKILL), f"exit code {code} after {number.name}: {said(runs.log)}"


@fault("F5", "the same twice; workers 0 and 2; gradient accumulation 1 x 4 and 4 x 1", "equal, equal, <= 1e-6", 3, 0)
def the_same_again(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, ALL)
    for trainer in (TRAINERS[1], TRAINERS[3]):
        base = (f"{trainer.loop}.steps=8", *trainer.options)
        changes = {"one": (), "again": ()}
        if trainer.reads_ahead:
            changes["workers"] = (f"{trainer.loop}.num_workers=2",)
        changes |= {f"micro {size}": (f"{trainer.loop}.micro_batch_size={size}",) for size in (1, 4)}
        for name, change in changes.items():
            arguments = runs.fresh(f"{trainer.name} {name}", trainer.stage, *base, *change)
            children.run(trainer.stage, arguments, runs.log)
        paths = {name: runs.path(f"{trainer.name} {name}", trainer.stage) for name in changes}
        for name in ("again", "workers"):
            with outcome.trial(f"{trainer.name} {name}"):
                require_equal(paths["one"], paths[name])
        first = zip(log_of(paths["micro 1"])[:1], log_of(paths["micro 4"])[:1], strict=True)
        player = trainer.loop.split(".")[0]
        difference = max(abs(a[f"{player}/loss"] / b[f"{player}/loss"] - 1) for a, b in first)
        outcome.count(difference <= 1e-6, f"{trainer.name}: the losses differ by {difference:.2g}")
        outcome.figures[f"{trainer.name}, relative difference of losses"] = float(f"{difference:.2g}")
    return outcome


@fault(
    "F6", "SIGTERM or SIGUSR1 at random steps, 1 and 2 ranks", "20/20, no step lost, exit 143 / 138 in < 30 s", 20, 2
)
def asked_to_stop(folder: Path, trials: int) -> Outcome:
    outcome, runs = Outcome(), Runs(folder, ALL[:2])
    slowest = 0.0
    for trial in range(trials):
        world, name = 1 + trial % 2, f"{1 + trial % 2} ranks"
        options = ("vae.loop.steps=100000", "vae.loop.checkpoint_every=0")
        arguments, stage = runs.new(name, *options), runs.path(name, "train_vae")
        before = newest_step(stage)
        processes = start("train_vae", arguments, runs.log, world)
        number = random.choice(list(INTERRUPTED))
        with outcome.trial(f"{name}, {number.name}"):
            wait_for_step(last_logged, stage, before + 1, processes[0].is_alive)
            time.sleep(random.uniform(0, 1))
            chosen = processes if random.random() < 0.5 else [random.choice(processes)]  # one tells the others
            started = time.monotonic()
            for process in chosen:
                kill(process.pid, number)
            codes, seconds = end(processes), time.monotonic() - started
            slowest = max(slowest, seconds)
            assert codes == [INTERRUPTED[number]] * world, f"exit codes {codes}: {said(runs.log)}"
            assert newest_step(stage) == last_logged(stage) > before, "a step was lost"
            assert seconds < 30, f"it took {seconds:.0f} s"
    outcome.figures = {"slowest exit in seconds": round(slowest, 1)}
    return outcome


@fault(
    "F7", "one of two ranks killed under torchrun --max-restarts 3", "20/20 end with the weights of an unbroken run", 20
)
def a_rank_dies(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    reference = torchrun(toy(folder, "unbroken", 300), folder / "unbroken.log")
    assert reference.wait(LONGEST_WAIT_SECONDS) == 0, (folder / "unbroken.log").read_text()[-2000:]
    for trial in range(trials):
        name, log = f"killed{trial}", folder / f"{trial}.log"
        stage = folder / name / "train_toy"
        agent = torchrun(toy(folder, name, 300), log)
        with outcome.trial(name):
            after = random.randint(5, 250)
            wait_for_step(last_logged, stage, after, partial(is_running, agent))
            rank = random.choice(["0", "1"])
            kill(next(pid for pid in ranks_of(agent.pid) if variable(pid, "RANK") == rank))
            code = wait_for(agent)
            assert code == 0, f"rank {rank} killed after step {after}: exit {code}: {log.read_text()[-1500:]}"
            require_equal(stage, folder / "unbroken" / "train_toy")
    return outcome


def torchrun(arguments: list[str], log: Path, script: str = "tests/tiny/toy_task.py") -> subprocess.Popen:
    """Two ranks of a script, restarted up to three times."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    environment = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    search = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", *launcher, str(ROOT / script), *arguments]
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment | search, stdout=file, stderr=file)


def is_running(process: subprocess.Popen) -> bool:
    """Whether it has not ended."""
    return process.poll() is None


def wait_for(agent: subprocess.Popen) -> int:
    """Its exit code; ended and -1 where it hangs."""
    try:
        return agent.wait(LONGEST_WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        agent.kill()
        return -1


def ranks_of(pid: int) -> Iterator[int]:
    """Child processes."""
    for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(text)


def variable(pid: int, name: str) -> str:
    """One variable of a process's environment."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs).get(name, "")


@fault(
    "F8", "NaN in the loss or gradient of one rank, and in a cached latent", "all ranks stop first, clips named", 6, 3
)
def not_a_number(folder: Path, trials: int) -> Outcome:
    outcome = Outcome()
    cases = [(kind, rank) for kind in ("loss_is_nan", "gradient_is_nan") for rank in (1, 0)]
    for kind, rank in cases[: max(trials - 1, 1) : 1 if trials > 3 else 2]:
        name, log = f"{kind}{rank}", folder / f"{kind}{rank}.log"
        with outcome.trial(name):
            codes = end(start("train_toy", toy(folder, name, 20, 1), log, 2, kind, rank))
            assert codes == [2, 2], f"exit codes {codes}: {said(log)}"
            require_finite(folder / name / "train_toy", sabotage.BAD_STEP)
            assert f"stopped at step {sabotage.BAD_STEP}" in said(log) and "clip" in said(log), said(log)
    runs = Runs(folder / "latte", ALL)
    for world in (1, 2)[: 2 if trials > 3 else 1]:
        with outcome.trial(f"cached latent, {world} ranks"):
            arguments = runs.fresh(f"nan{world}", "train_latte", "latte.loop.checkpoint_every=1", "latte.loop.steps=60")
            path = put_nan(folder / "latte" / f"nan{world}" / "cache_latents" / "latents")
            assert end(start("train_latte", arguments, folder / f"latte{world}", world)) == [2] * world
            assert path in said(folder / f"latte{world}"), f"{path} is not named: {said(folder / f'latte{world}')}"
            if newest_step(runs.path(f"nan{world}", "train_latte")):
                require_finite(runs.path(f"nan{world}", "train_latte"), 60)
    return outcome


def put_nan(latents: Path) -> str:
    """Make one value of a cached clip of the training split NaN, with checksums to match; returns the clip's path."""
    import hashlib

    from safetensors.torch import load_file, save

    from pipelines.data.latent_shard import CHECKSUM, signed

    metadata = json.loads((latents / "metadata.json").read_text())
    shard = latents / metadata["shards"][0]["file"]
    tensors = load_file(shard)
    first = next(name for name in tensors if name.endswith(".mean") and tensors[name].numel())
    tensors[first].flatten()[0] = float("nan")
    content = save(tensors)
    shard.write_bytes(content)
    metadata["shards"][0] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    metadata.pop(CHECKSUM)
    (latents / "metadata.json").write_text(json.dumps(signed(metadata)))
    return str(metadata["clips"][0]["path"])


def require_finite(stage: Path, before: int) -> None:
    """The newest checkpoint is of a step up to `before` and holds finite numbers only."""
    found = load_latest(stage / "checkpoints")
    assert found is not None and found.step <= before, f"saved at step {found and found.step}"
    bad = [name for named in found.tensors.values() for name, value in named.items() if not torch.isfinite(value).all()]
    assert not bad, f"{bad[0]} is saved and not finite"
