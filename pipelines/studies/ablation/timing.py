"""Seconds per training step of every row, measured before training, in turns with the reference row: timing.json.

The ratio to the reference is what counts: the median over rounds in which both were timed one after the other, so a
machine that is slower for a while changes it little. A single thread on a CPU is timed by the seconds it computed, not
those that it waited for other programs. Rows with budget time get their number of steps from it.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipelines import train_latte, train_motion, train_vae
from pipelines.inputs.cache import open_cache
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.training_stages import training_stages
from pipelines.run.folder import write_json
from pipelines.run.random_keys import Draws
from pipelines.run.ranks import choose_device
from pipelines.run.task import LoopConfig, TrainingTask
from pipelines.run.training_state import TrainingState
from pipelines.run.update import accumulate_gradient, take_step
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.ablation.plan import (
    chosen_rows,
    motion_digest,
    reference_row,
    row_config,
    settings_digest,
)
from vae.registry import build_autoencoder

Timing = dict[str, Any]


def timing_file(config: AblationStudy) -> Path:
    """Where the measurement of an ablation stands."""
    return Path(config.run.root) / config.run.name / "ablate" / "timing.json"


def read_timing(config: AblationStudy) -> Timing:
    """{"reference", "seconds_reference", "rows": {settings: {"ratio", "rounds", "row"}}, "motion": {settings: ...}}.

    Rows of the same settings are one entry. Empty where nothing was measured, or the reference row was another one.
    """
    file = timing_file(config)
    reference = settings_digest(row_config(config, reference_row(config.ablation)))
    timing = json.loads(file.read_text()) if file.exists() else {}
    if timing.get("reference") != reference:
        return {"reference": reference, "seconds_reference": None, "rows": {}, "motion": {}}
    return timing


def timed_rows(config: AblationStudy) -> dict[str, AblationStudy]:
    """The rows to time, the reference first: all that are run, and those that give others their time."""
    section = config.ablation
    names = [reference_row(section)]
    for name, row in chosen_rows(section).items():
        names += [name, *filter(None, [row.like])]
    return {name: row_config(config, name) for name in dict.fromkeys(names)}


def missing_rows(config: AblationStudy, timing: Timing) -> list[str]:
    """The rows whose steps, or whose motion module's steps, are not yet timed."""
    return [
        name
        for name, changed in timed_rows(config).items()
        if settings_digest(changed) not in timing["rows"]
        or ("train_motion" in training_stages(changed) and motion_digest(changed) not in timing["motion"])
    ]


def measure(config: AblationStudy) -> None:
    """Time what timing.json lacks, one row after the other, each in turns with the reference row."""
    rows, timing = timed_rows(config), read_timing(config)
    rounds, steps = config.ablation.timing_rounds, config.ablation.timing_steps
    reference = StepClock.of_vae(rows[reference_row(config.ablation)], config)
    for name in missing_rows(config, timing):
        settings, motion = settings_digest(rows[name]), motion_digest(rows[name])
        if settings not in timing["rows"]:
            clock = StepClock.of_vae(rows[name], config)
            timing["rows"][settings] = {"row": name, **compare(clock, reference, rounds, steps)}
        if timing["seconds_reference"] is None:  # the reference comes first
            timing["seconds_reference"] = median(seconds for _, seconds in timing["rows"][settings]["rounds"])
            timing["rows"][settings]["ratio"] = 1.0
        if "train_motion" in training_stages(rows[name]) and motion not in timing["motion"]:
            clock = StepClock.of_motion(rows[name], config)
            timing["motion"][motion] = {"row": name, **compare(clock, reference, rounds, steps)}
        write_json(timing_file(config), timing)


def compare(clock: "StepClock", reference: "StepClock", rounds: int, steps: int) -> dict[str, Any]:
    """Seconds per step of both in `rounds` rounds, and the median of their ratios."""
    for either in (clock, reference):
        either.seconds_per_step(1)
    pairs = [[round(either.seconds_per_step(steps), 6) for either in (clock, reference)] for _ in range(rounds)]
    return {"ratio": median(ours / theirs for ours, theirs in pairs), "rounds": pairs}


class StepClock:
    """A training whose steps can be timed, on random clips and without loading any; the weights stay as they are."""

    def __init__(
        self,
        task: TrainingTask,
        loop: LoopConfig,
        moments: Mapping[int, float],
        config: Experiment,
        batch: dict[str, Any] | None = None,
    ) -> None:
        """moments: {step: share of the training that costs as much as this step}; batch: None = random clips."""
        device = choose_device(config.run.device)
        is_one_thread = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if is_one_thread else time.perf_counter
        self.task, self.moments, self.seed = task, moments, config.run.seed
        self.state = TrainingState(task, loop, Path(), device)
        self.state.set_learning_rate(0.0)
        self.batch = batch or random_clips(config, loop, device)

    @classmethod
    def of_vae(cls, row: Experiment, config: Experiment) -> "StepClock":
        """Of a row's autoencoder; `config` names the run that holds the clip index."""
        task = train_vae.build_task(row, open_index(config), build_autoencoder(row.vae))
        return cls(task, row.vae.loop, moments_of(row), config)

    @classmethod
    def of_motion(cls, row: Experiment, config: Experiment) -> "StepClock":
        """Of a row's motion module."""
        return cls(train_motion.build_task(row, open_index(config)), row.motion.loop, {0: 1.0}, config)

    @classmethod
    def of_latte(cls, row: Experiment, config: Experiment) -> "StepClock":
        """Of a row's transformer; `config` names the run that holds the cache."""
        task = train_latte.build_task(row, open_cache(config, open_index(config)))
        return cls(task, row.latte.loop, {0: 1.0}, config, next(task.batches(0)))

    def seconds_per_step(self, count: int) -> float:
        """Mean over the training, from `count` steps in each of its parts."""
        total = 0.0
        for step, share in self.moments.items():
            started = self._now()
            for _ in range(count):
                self._train(step)
            total += share * (self._now() - started) / count
        return total

    def _now(self) -> float:
        """The clock when all that was begun is done: a GPU's queue would be paid for by the next reading."""
        if self.state.device.type == "cuda":
            torch.cuda.synchronize(self.state.device)
        return self.clock()

    def _train(self, step: int) -> None:
        draws = Draws(self.seed, self.task.stage, step, self.batch["index"])
        for player in self.task.prepare_step(step):
            take_step(self.state, accumulate_gradient(self.state, player, self.batch, draws, step))
        self.state.average(step + 1, updated=True)


def random_clips(config: Experiment, loop: LoopConfig, device: torch.device) -> dict[str, Any]:
    """A batch of noise, always the same."""
    data = config.data
    shape = (loop.global_batch_size, 3, data.num_frames, data.resolution, data.resolution)
    video = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = list(range(len(video)))
    return {"video": video.to(device), "index": names, "path": [f"clip {name}" for name in names]}


def moments_of(config: Experiment) -> dict[int, float]:
    """The first step of each part of a training that costs differently, and the part's share of all steps."""
    vae, steps = config.vae, config.vae.loop.steps
    starts = {0, vae.adaptation.phase_two_step, *([vae.gan.start_step] if vae.gan.weight else [])}
    inside = sorted(start for start in starts if 0 <= start < max(steps, 1))
    return {
        start: (stop - start) / max(steps, 1) for start, stop in zip(inside, [*inside[1:], max(steps, 1)], strict=True)
    }


def steps_within_time(config: AblationStudy, rows: Mapping[str, AblationStudy], timing: Timing) -> dict[str, int]:
    """Steps of every row with budget time: as many as take the time that the row `like` takes for its own.

    Raises ValueError when rows were not timed, and when the motion module's training alone takes longer.
    """
    section, steps = config.ablation, {}
    for name, changed in rows.items():
        row = section.rows[name]
        if row.budget != "time":
            continue
        like = row_config(config, row.like or reference_row(section))
        seconds, seconds_like = seconds_per_step(changed, timing), seconds_per_step(like, timing)
        if seconds is None or seconds_like is None:
            raise ValueError(f"ablation.rows.{name} has budget time: set ablation.timing_rounds to 1 or more")
        budget, before = like.vae.loop.steps * seconds_like, 0.0
        if row.count_motion:
            budget, before = budget + motion_seconds(like, timing), motion_seconds(changed, timing)
        steps[name] = round((budget - before) / seconds)
        if steps[name] < 1:
            raise ValueError(
                f"ablation.rows.{name} has no time left: its motion module takes {before:.0f} of {budget:.0f} seconds; "
                "use fewer motion.loop.steps, or count_motion: false"
            )
    return steps


def seconds_per_step(config: AblationStudy, timing: Timing) -> float | None:
    """Seconds per step of a row, at the pace at which the reference was timed; None where it was not timed."""
    timed = timing["rows"].get(settings_digest(config))
    return None if timed is None else timed["ratio"] * timing["seconds_reference"]


def motion_seconds(config: AblationStudy, timing: Timing) -> float:
    """Expected seconds for training a row's motion module; 0 for a row without its own."""
    if "train_motion" not in training_stages(config):
        return 0.0
    ratio = timing["motion"][motion_digest(config)]["ratio"]
    return config.motion.loop.steps * ratio * timing["seconds_reference"]
