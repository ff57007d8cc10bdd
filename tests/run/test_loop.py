"""The training loop on a tiny real task: resume is bit-equal, batches may be cut, faults change no weights."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_runs import LOOP, assert_equal, experiment, result
from toy_task import Regressor, ToyConfig, ToyExperiment, ToyTask, run_toy

from pipelines.run import update
from pipelines.run.checkpoint import load_latest, load_step
from pipelines.run.ema_snapshots import SnapshotLoopConfig
from pipelines.run.folder import StageFolder
from pipelines.run.learning_rate import learning_rate
from pipelines.run.loop import train
from pipelines.run.random_keys import Draws, key
from pipelines.run.run_config import RunConfig
from pipelines.run.stage import select
from pipelines.run.task import LoopConfig, may_change
from pipelines.run.training_state import TrainingState


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unbroken")
    run_toy(experiment(root))
    return root


def test_what_a_run_leaves(unbroken: Path) -> None:
    folder = unbroken / "one" / "train_toy"
    tensors, lines = result(unbroken)
    steps = [line for line in lines if "lr" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[0].keys() == {"step", "lr", "regressor/loss", "regressor/grad_norm", "regressor/mean_error"}
    assert {"scorer/loss", "scorer/grad_norm"} < steps[2].keys()
    assert [line["step"] for line in lines if "validation/error" in line] == [4, 8, 12]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-00000010", "step-00000012"]
    last = Regressor.from_pretrained(folder / "last")
    for name, parameter in last.named_parameters():
        assert torch.equal(parameter, tensors[f"ema/{name}"]), "last/ holds the averaged weights"
        assert not torch.equal(parameter, tensors[f"regressor/{name}"])
    assert Regressor.from_pretrained(folder / "best").config.architecture == {"width": 5}
    done = json.loads((folder / "done.json").read_text())
    assert done["outputs"] == {"model": "best"}
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.parametrize("stops", [(1,), (3, 4), (5, 10), (11,)])
def test_a_resumed_run_equals_an_unbroken_one(unbroken: Path, tmp_path: Path, stops: tuple[int, ...]) -> None:
    for stop in (*stops, 12):
        run_toy(experiment(tmp_path, loop=replace(LOOP, steps=stop)))
    assert_equal(result(unbroken)[0], result(tmp_path)[0])
    steps = [[line for line in result(root)[1] if "lr" in line] for root in (unbroken, tmp_path)]
    assert steps[0] == steps[1]


def test_means_of_the_log_survive_a_resume(tmp_path: Path) -> None:
    loop = replace(LOOP, log_every=6, checkpoint_every=4, schedule="cosine", warmup_steps=3)
    run_toy(experiment(tmp_path, "unbroken", loop))
    with pytest.raises(ZeroDivisionError):
        train_with_fault(experiment(tmp_path, "broken", loop), fault_step=9)
    run_toy(experiment(tmp_path, "broken", loop))
    assert result(tmp_path, "unbroken")[1] == result(tmp_path, "broken")[1]
    assert_equal(result(tmp_path, "unbroken")[0], result(tmp_path, "broken")[0])


def train_with_fault(config: ToyExperiment, fault_step: int) -> None:
    class FaultyTask(ToyTask):
        def prepare_step(self, step: int) -> list[str]:
            return super().prepare_step(step + 0 // (fault_step - step))

    folder = StageFolder(config.run.root, config.run.name, "train_toy")
    with folder.open(select(config, ("toy", "run")), may_change=may_change("toy.loop")):
        train(FaultyTask(config.toy, config.run.seed), config.toy.loop, folder, config.run.seed, "cpu")


def test_a_finished_run_returns_at_once(unbroken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = result(unbroken)
    run_toy(experiment(unbroken))
    assert "nothing to train" in capfd.readouterr().err
    assert_equal(before[0], result(unbroken)[0])


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_micro_batches_equal_the_whole(unbroken: Path, tmp_path: Path, micro_batch_size: int) -> None:
    run_toy(experiment(tmp_path, loop=replace(LOOP, micro_batch_size=micro_batch_size)))
    whole, cut = result(unbroken)[0], result(tmp_path)[0]
    for name, tensor in whole.items():
        if not name.startswith("extra"):  # the toy's running error is updated once per micro-batch
            torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_parameters_have_no_gradient_and_do_not_move(tmp_path: Path) -> None:
    config = experiment(tmp_path, loop=replace(LOOP, steps=4, weight_decay=0.1), freeze_until=99)
    run_toy(config)
    tensors, initial = result(tmp_path)[0], ToyTask(config.toy, config.run.seed).players["regressor"].state_dict()
    assert torch.equal(tensors["regressor/first.weight"], initial["first.weight"])
    assert not torch.equal(tensors["regressor/second.weight"], initial["second.weight"])
    assert not any(name.startswith("regressor.optimizer/first") for name in tensors)


def test_averaged_weights_without_a_warm_up_keep_the_first_weights(tmp_path: Path) -> None:
    """Latte averages with its decay from the first step on: after n steps the first weights count decay ** n."""
    averages = {}
    for name, decay, has_warmup in (("exact", 0.9, False), ("warm", 0.9, True), ("first", 1 - 1e-7, False)):
        loop = replace(LOOP, steps=3, checkpoint_every=1, ema_decay=decay, ema_warmup=has_warmup, keep_checkpoints=9)
        run_toy(experiment(tmp_path, name, loop))
        averages[name] = load_step(tmp_path / name / "train_toy" / "checkpoints", 3).tensors["ema"]
    weights = [load_step(tmp_path / "exact/train_toy/checkpoints", step).tensors["regressor"] for step in (1, 2, 3)]
    for parameter, expected in averages["first"].items():
        for named in weights:
            expected = 0.9 * expected + 0.1 * named[parameter]
        torch.testing.assert_close(averages["exact"][parameter], expected, atol=1e-5, rtol=1e-5)
    assert any(not torch.equal(averages["exact"][name], average) for name, average in averages["warm"].items())


def test_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    for name, loop in (("whole", LOOP), ("cut", replace(LOOP, micro_batch_size=2))):
        with pytest.raises(ValueError, match=r"step 7 .*'regressor'.*clip0\.avi") as caught:
            run_toy(experiment(tmp_path, name, loop, bad_step=7))
        assert ("clip2.avi" in str(caught.value)) == (name == "whole"), "only the clips of the micro-batch at fault"
        found = load_latest(tmp_path / name / "train_toy" / "checkpoints")
        assert found.step == 5
        assert all(torch.isfinite(tensor).all() for named in found.tensors.values() for tensor in named.values())


def test_a_step_that_nobody_waits_for_skips_what_is_not_finite(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU: the optimiser itself leaves weights and moments alone, and the sentence comes a step later."""
    monkeypatch.setattr(update, "skips_by_itself", lambda parameters: True)
    run_toy(experiment(tmp_path, "fine"))
    assert_equal(result(tmp_path, "fine")[0], result(unbroken)[0])
    assert result(tmp_path, "fine")[1] == result(unbroken)[1], "and the same losses are logged"

    config, seen = experiment(tmp_path, "bad", bad_step=7), {}
    task = ToyTask(config.toy, config.run.seed)
    state = TrainingState(task, LOOP, tmp_path, torch.device("cpu"))
    state.set_learning_rate(LOOP.lr)
    batches = dict(zip((6, 7), task.batches(6), strict=False))
    before = {name: tensor.clone() for name, tensor in task.players["regressor"].state_dict().items()}
    for step in (7, 6):
        draws = Draws(3, task.stage, step, batches[step]["index"])
        task.prepare_step(step)
        gradient = update.accumulate_gradient(state, "regressor", batches[step], draws, step)
        seen[step] = update.take_step(state, gradient)
        moved = any(not torch.equal(x, before[n]) for n, x in task.players["regressor"].state_dict().items())
        assert moved == (step == 6)
    with pytest.raises(ValueError, match=r"step 7 .*'regressor'.*clip0\.avi"):
        seen[7].read()
    assert seen[6].read().keys() == {"regressor/loss", "regressor/mean_error", "regressor/grad_norm"}
    with pytest.raises(ValueError, match="step 7"):
        run_toy(config)
    assert load_latest(tmp_path / "bad" / "train_toy" / "checkpoints").step == 5


def test_lack_of_memory_names_the_remedy(tmp_path: Path) -> None:
    class HugeTask(ToyTask):
        def loss(self, *args, **kwargs):
            torch.empty(1 << 62, dtype=torch.uint8)
            return super().loss(*args, **kwargs)

    config = experiment(tmp_path)
    folder = StageFolder(str(tmp_path), "one", "train_toy").open({})
    with (
        folder,
        pytest.raises(ValueError, match="8 samples .*8 at once.*micro_batch_size"),
    ):
        train(HugeTask(config.toy, 0), config.toy.loop, folder, 0, "cpu")


def test_no_global_state_leaks(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_toy(experiment(tmp_path, loop=replace(LOOP, preview_every=6)))
    assert torch.equal(torch.rand(3), expected)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    previews = tmp_path / "one" / "train_toy" / "previews"
    assert {path.name: path.read_text() for path in previews.iterdir()} == {
        "step-6.txt": "False",
        "step-12.txt": "False",
    }


def test_learning_rate() -> None:
    config = LoopConfig(steps=110, lr=2.0, warmup_steps=10, schedule="cosine")
    rates = [learning_rate(config, step) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0)
    assert learning_rate(LoopConfig(lr=2.0), 10**6) == 2.0


def test_draws_depend_on_the_sample_and_not_on_the_batch() -> None:
    def draw(draws: Draws, name: str = "noise") -> list[float]:
        return [float(torch.rand(1, generator=generator)) for generator in draws(name)]

    whole = Draws(1, "stage", 7, range(6))
    assert draw(whole) == draw(whole.part(0, 4)) + draw(Draws(1, "stage", 7, torch.tensor([4, 5])))
    others = [Draws(2, "stage", 7, range(6)), Draws(1, "other", 7, range(6)), Draws(1, "stage", 8, range(6))]
    values = [value for draws in (whole, *others) for value in draw(draws)] + draw(whole, "time")
    assert len(set(values)) == len(values)
    assert key(0, "a", 1) == 1497209822362405998, "keys never change: runs would no longer resume"
    assert len({key(0, 1), key(0, "1"), key(1, 1), key(0, 1, 1), key(0, "1", "")}) == 5


# One process imports torch; its forks run the command, each is stopped at some step by a signal.
LAUNCHER = """
import json, os, sys, time
from pathlib import Path
import toy_task
from pipelines.run.checkpoint import load_latest
from pipelines.run.folder import read_jsonl

folder, arguments, stops = Path(sys.argv[1]), sys.argv[2:-1], json.loads(sys.argv[-1])
sys.argv = ["toy_task.py", *arguments]
for number, step in stops:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(folder / "errors.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
        try:
            toy_task.main("train_toy", toy_task.run_toy, toy_task.ToyExperiment, ("toy", "run"))
        except SystemExit as ended:
            sys.stderr.flush()
            os._exit(ended.code)
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step for line in read_jsonl(folder / "one/train_toy/metrics.jsonl")):
        assert time.monotonic() < deadline, (folder / "errors.txt").read_text()
        time.sleep(0.005)
    os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    saved = load_latest(folder / "one/train_toy/checkpoints")
    last = read_jsonl(folder / "one/train_toy/metrics.jsonl")[-1]["step"]
    print(json.dumps([code, saved and saved.step, last, (folder / "errors.txt").read_text()]), flush=True)
"""


def test_kills_and_interruptions_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL, Ctrl-C and SIGTERM in turn, then the same settings to the end: equal to a run without any of them."""
    (tmp_path / "toy.yaml").write_text("toy:\n  loop: {steps: 400, lr: 0.01, log_every: 1, checkpoint_every: 3}\n")
    options = [str(tmp_path / "toy.yaml"), f"run.root={tmp_path}", "run.name=one", "run.device=cpu"]
    moments, step = random.Random(1), 0
    stops = [(number, step := step + moments.randint(2, 30)) for number in (9, 2, 15, 9, 9, 2, 9)]
    call = [sys.executable, "-c", LAUNCHER, str(tmp_path), *options, json.dumps(stops)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launched = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert launched.returncode == 0, launched.stderr
    reports = [json.loads(line) for line in launched.stdout.splitlines()]
    for (number, _), (code, saved, last, errors) in zip(stops, reports, strict=True):
        assert "Traceback" not in errors
        assert code == {9: -9, 2: 130, 15: 143}[number], errors
        if number != 9:
            assert saved == last, "no step is lost"
            assert f"saved step {saved} of 400; to go on: python toy_task.py " in errors
            assert "run.name=one" in errors
    loop = SnapshotLoopConfig(steps=400, lr=0.01, log_every=1, checkpoint_every=3)
    for name in ("one", "two"):
        run_toy(ToyExperiment(ToyConfig(loop=loop), RunConfig(name=name, root=str(tmp_path), device="cpu")))
    assert_equal(result(tmp_path, "one")[0], result(tmp_path, "two")[0])
    assert result(tmp_path, "one")[1] == result(tmp_path, "two")[1]


def test_two_processes_equal_one(unbroken: Path, tmp_path: Path) -> None:
    """torchrun with two processes: the same losses and weights to rounding, one writer, a clean end."""
    (tmp_path / "toy.yaml").write_text(
        "toy:\n  loop: {steps: 12, lr: 0.01, log_every: 1, checkpoint_every: 5, validate_every: 4}\n"
    )
    script = [str(Path(__file__).parents[1] / "tiny" / "toy_task.py"), str(tmp_path / "toy.yaml")]
    options = [f"run.root={tmp_path}", "run.name=one", "run.device=cpu", "run.seed=3"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *script, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(launch, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert load_latest(tmp_path / "one" / "train_toy" / "checkpoints").state["processes"] == 2, "they never met"
    one, two = result(unbroken), result(tmp_path)
    for name, tensor in one[0].items():
        if not name.startswith("extra"):  # the toy's running error is each process's own
            torch.testing.assert_close(two[0][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    for line, other in zip(one[1], two[1], strict=True):
        assert other == pytest.approx(line, rel=1e-4)
