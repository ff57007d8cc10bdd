"""The training task: a fixed validation loss, a golden loss curve, and a tiny set that is really learned."""

from itertools import islice

import pytest
import torch
from tiny_latte import DECOUPLED, check_golden, keyed_draws, random_latents, tiny_latte

from latte.latte import Latte
from latte.sampler import SamplerConfig, generate
from latte.trainer import LatteTask
from pipelines.run.folder import StageFolder
from pipelines.run.loop import train
from pipelines.run.task import LoopConfig

KINDS = {"clean_keyframe_share": 0.2, "independent_times_share": 0.2, "image_share": 0.2}
SHAPES = {"keyframe": (2, 1, 4, 4), "motion": (2, 2, 4, 4)}


def task_for(model, batches=lambda first_step: iter(()), validation=lambda: ()):
    return LatteTask(model, batches, validation, preview=lambda model, folder, step: None)


def clips(count: int, seed: int = 0) -> dict:
    """Three classes of latents, each a pattern of its own plus little noise."""
    patterns = random_latents(SHAPES, 3, seed=7)
    labels = torch.arange(count) % 3
    noise = random_latents(SHAPES, count, seed=seed)
    return {"latents": {p: x[labels] + 0.1 * noise[p] for p, x in patterns.items()}, "label": labels}


def train_plainly(task: LatteTask, steps: int, lr: float) -> list[float]:
    optimiser = torch.optim.Adam(
        [{"params": g["params"], "lr": lr * g["lr_scale"]} for g in task.parameter_groups("latte")]
    )
    losses = []
    for step, batch in enumerate(islice(task.batches(0), steps)):
        assert task.prepare_step(step) == ["latte"]
        size = len(batch["label"])
        loss, _ = task.loss("latte", batch, keyed_draws([step * size + i for i in range(size)]), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("layout", "objective", "options"),
    [
        ("keyframe_first", "flow", {}),
        ("channel", "epsilon", {}),
        ("tokens", "v", {"min_snr_gamma": 5.0, "zero_terminal_snr": True, **KINDS}),
    ],
)
def test_golden_loss_curve(layout, objective, options):
    model = tiny_latte(SHAPES, layout=layout, objective=objective, **options)
    task = task_for(model, batches=lambda first_step: (clips(6, seed=step) for step in range(first_step, 10)))
    check_golden("latte_training", f"{layout} {objective}", torch.tensor(train_plainly(task, 10, lr=1e-3)))


@pytest.mark.parametrize(
    ("layout", "objective", "steps", "sampling_steps", "options"),
    [
        ("keyframe_first", "flow", 240, 25, KINDS),
        ("channel", "epsilon", 400, 100, {}),
        ("tokens", "v", 200, 25, {"zero_terminal_snr": True}),
    ],
)
def test_learns_what_the_classes_look_like(layout, objective, steps, sampling_steps, options):
    model = tiny_latte(SHAPES, layout=layout, objective=objective, width=32, depth=2, label_dropout=0.1, **options)
    task = task_for(
        model,
        batches=lambda first_step: (clips(24, seed=step) for step in range(first_step, 1000)),
        validation=lambda: [clips(24, seed=2000)],
    )
    untrained = task.validate(model, 0)["loss"]
    train_plainly(task, steps, lr=4e-3)
    trained = task.validate(model, steps)
    assert trained["loss"] < 0.3 * untrained, trained
    labels = [0, 1, 2] * 4
    samples = list(
        generate(model, labels, list(range(12)), SamplerConfig(steps=sampling_steps), 12, torch.device("cpu"))
    )
    patterns = random_latents(SHAPES, 3, seed=7)
    if options == KINDS:  # without a class the motion follows a given keyframe, which shows the class
        frames = {"keyframe": 2 * patterns["keyframe"][labels] + 0.5}
        config = SamplerConfig(steps=sampling_steps, guidance_scale=1.0)
        samples += generate(model, [-1] * 12, range(12), config, 12, torch.device("cpu"), first_frame=frames)
    for number, sample in enumerate(samples):  # un-whitened with mean 0.5 and std 2
        made = ["motion"] if number >= 12 else list(SHAPES)
        distances = sum(((sample["latents"][p] - 0.5) / 2 - patterns[p]).square().flatten(1).sum(1) for p in made)
        assert distances.argmin() == labels[number % 12]
        assert distances.min() < 0.5 * distances.median()


def test_validation_is_fixed_and_independent_of_the_batches():
    model = tiny_latte(SHAPES, awake=True)
    whole = clips(6)
    parts = [
        {"latents": {p: x[s] for p, x in whole["latents"].items()}, "label": whole["label"][s]}
        for s in (slice(0, 1), slice(1, 6))
    ]
    first = task_for(model, validation=lambda: [whole]).validate(model, 1)
    second = task_for(model, validation=lambda: parts).validate(model, 2)
    assert set(first) == {"loss", "loss_keyframe", "loss_motion"}
    assert first == pytest.approx(second, rel=1e-5)
    assert task_for(model).validate(model, 3) == {}


def test_the_task_logs_a_loss_per_part_and_has_no_extra_state():
    model = tiny_latte(awake=True, objective="epsilon")
    batch = {"latents": random_latents(DECOUPLED, 2), "label": torch.tensor([0, -1])}
    task = task_for(model, batches=lambda first_step: iter([batch]))
    loss, terms = task.loss("latte", next(task.batches(0)), keyed_draws([1, 2]), 0)
    assert set(terms) == {"loss_keyframe", "loss_motion", "loss_residual", "bound"}
    assert loss.requires_grad and not any(term.requires_grad for term in terms.values())
    assert task.extra_state() == {} and task.load_extra_state({}) is None
    assert task.players[task.ema_player] is model and task.best_metric == ("loss", "min")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_training_loop_drives_the_task(tmp_path, precision):
    """Micro-batches, validation, previews and the published folder, through the one training loop."""
    drawn = []
    whole = {**clips(6), "index": list(range(6)), "path": [f"clip {i}" for i in range(6)]}
    model = tiny_latte(SHAPES)
    start = {name: parameter.clone() for name, parameter in model.named_parameters()}
    task = LatteTask(
        model,
        batches=lambda first_step: (whole for _ in range(first_step, 3)),
        validation=lambda: [clips(6)],
        preview=lambda model, folder, step: drawn.append(step),
    )
    config = LoopConfig(
        steps=3, global_batch_size=6, micro_batch_size=4, precision=precision, preview_every=2, validate_every=1
    )
    folder = StageFolder(str(tmp_path), "nano", task.stage)
    with folder.open({}, {}, ()):
        train(task, config, folder, seed=0, device="cpu")
    published = Latte.from_pretrained(folder.path / "last")
    assert published.architecture == model.architecture
    assert any(not torch.equal(parameter, start[name]) for name, parameter in published.named_parameters())
    assert drawn == [2]
