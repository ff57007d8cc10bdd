"""The preset `modern` against `latte_parity`, step by step, each at the best of four learning rates.

python -m pipelines.studies.latte_presets [study.only=[modern]] [study.key=value ...]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.studies.ablation_page import over
from pipelines.studies.latte_training import CODE, Training, floor_of, train_all
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

PRESETS, RATES, TUNING_STEPS, BEST = ("modern", "latte_parity"), (3e-4, 1e-3, 3e-3, 1e-2), 1000, "the best"
MILESTONES = (250, 500, 750, 1000, 1500, 2000, 3000)
ENOUGH = 0.8  # class accuracy
# What both presets share: the EMA's horizon, the batch and the schedule, with which every step is a result of its own.
EQUAL = (
    *("latte.loop.schedule=constant", "latte.loop.warmup_steps=50", "latte.loop.betas=[0.9,0.99]"),
    *("latte.loop.ema_decay=0.995", "latte.loop.ema_warmup=true"),
)


def rates(options: StudySection) -> tuple[float, ...]:
    """The learning rates that are tried."""
    return RATES[1:2] if options.tiny else RATES


def cases(options: StudySection) -> list[Case]:
    """A case per preset and rate, and one per preset that is judged at its best rate."""
    presets = PRESETS[:1] if options.tiny else PRESETS
    tuned = [Case({"preset": preset, "lr": f"{rate:g}"}, 0) for preset in presets for rate in rates(options)]
    return [*tuned, *(Case({"preset": preset, "lr": BEST}, 0) for preset in presets)]


def training(preset: str, rate: str, steps: tuple[int, ...], is_judged: bool) -> Training:
    """One preset at one rate."""
    words = (f"configs/overlays/{preset}.yaml", *EQUAL, f"latte.loop.lr={rate}")
    return Training(f"{preset}-lr{rate}{'-judged' if is_judged else ''}", words, steps, is_judged)


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Tune all presets that are asked for, then judge them; what is trained already returns at once."""
    presets = list(dict.fromkeys(case.arguments["preset"] for case in waiting))
    wanted = {(case.arguments["preset"], case.arguments["lr"]): case for case in waiting}
    known = {
        f"{preset}-lr{rate:g}": (preset, f"{rate:g}", (TUNING_STEPS,), False)
        for preset in presets
        for rate in rates(options)
    }
    losses: dict[str, dict[str, float]] = {preset: {} for preset in presets}
    for name, records in train_all(options, work, [training(*words) for words in known.values()]):
        preset, rate, *_ = known[name]
        losses[preset][rate] = records[-1]["loss"]
        if case := wanted.get((preset, rate)):
            yield Measured(case, round_floats(records[-1]))
    best = {preset: min(found, key=lambda rate: found[rate]) for preset, found in losses.items()}
    judged = [training(preset, best[preset], MILESTONES, True) for preset in presets if (preset, BEST) in wanted]
    for name, records in train_all(options, work, judged):
        preset = name.split("-lr")[0]
        yield Measured(wanted[preset, BEST], round_floats({"lr": best[preset], "milestones": records}))


def tuning(rows: Rows) -> str:
    """Loss on held-out clips by preset and rate."""
    tuned = [row for row in rows if row.arguments["lr"] != BEST]
    found = list(dict.fromkeys(row.arguments["lr"] for row in tuned))
    lines = []
    for preset in dict.fromkeys(row.arguments["preset"] for row in tuned):
        own = {row.arguments["lr"]: row for row in tuned if row.arguments["preset"] == preset}
        losses = [f"{own[rate].values['loss']:.3f}" if rate in own else "-" for rate in found]
        lines.append((list(own.values()), [f"`{preset}`", *losses]))
    return markdown_table(["preset", *found], lines)


def accuracy(rows: Rows) -> str:
    """Class accuracy by steps, and the first milestone at which it was enough."""
    judged = [row for row in rows if row.arguments["lr"] == BEST]
    steps = [str(record["steps"]) for record in judged[0].values["milestones"]] if judged else []
    lines = []
    for row in judged:
        records = row.values["milestones"]
        reached = next((str(one["steps"]) for one in records if one["class_accuracy"] >= ENOUGH), "never")
        cells = [f"{one['class_accuracy']:.2f}" for one in records]
        lines.append(([row], [f"`{row.arguments['preset']}`", row.values["lr"], *cells, reached]))
    return markdown_table(["preset", "rate", *steps, f"steps to {ENOUGH}"], lines)


def last(rows: Rows) -> str:
    """What takes longer, after the last step, beside real clips that were held out."""
    judged = [row for row in rows if row.arguments["lr"] == BEST]
    lines = []
    for row in judged:
        end = row.values["milestones"][-1]
        cells = [f"{end['class_accuracy']:.2f}", f"{end['nearest_training_clip']:.4f}", f"{end['diversity']:.2f}"]
        cells += [over([end.get("fvd16")], ".0f")]
        lines.append(([row], [f"`{row.arguments['preset']}`", *cells]))
    if judged:
        end = judged[0].values["milestones"][-1]
        real = [f"{end['class_accuracy_real']:.2f}", f"{end['nearest_training_clip_real']:.4f}", "1", floor_of(end)]
        lines.append(([judged[0]], ["real held-out clips", *real]))
    head = ["preset", "class accuracy", "nearest training clip", "diversity (real clips: 1)", "FVD16 (floor, clips)"]
    return markdown_table(head, lines)


OVERLAYS = tuple(f"configs/overlays/{preset}.yaml" for preset in PRESETS)
STUDY = Study(
    "latte_presets", (*CODE, *OVERLAYS), cases, measure, {"tuning": tuning, "accuracy": accuracy, "last": last}
)

if __name__ == "__main__":
    main(STUDY)
