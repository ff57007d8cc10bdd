"""How decoupled latents enter the transformer: its layouts at equal steps.

python -m pipelines.studies.latent_layouts [study.only=[channel]] [study.key=value ...]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.studies.ablation_page import over
from pipelines.studies.latte_training import CODE, Training, floor_of, train_all
from pipelines.studies.result_rows import Rows, markdown_table, round_floats
from pipelines.studies.study import Case, Measured, Study, StudySection, main

LAYOUTS, SEEDS, STEPS = ("keyframe_first", "channel", "tokens"), (0, 1, 2), 1500
HEAD = [
    *("layout", "seeds", "class accuracy", "diversity (real clips: 1)", "FVD16", "its floor, clips"),
    *("nearest training clip, over that of real held-out clips", "tokens", "steps/s, the fastest"),
]


def cases(options: StudySection) -> list[Case]:
    """A case per layout and seed."""
    layouts, seeds = (LAYOUTS[:1], SEEDS[:1]) if options.tiny else (LAYOUTS, SEEDS)
    return [Case({"layout": layout, "steps": STEPS}, seed) for seed in seeds for layout in layouts]


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Train and judge."""
    named = {f"{case.arguments['layout']}-seed{case.seed}": case for case in waiting}
    trainings = [
        Training(name, (f"latte.layout={case.arguments['layout']}", f"run.seed={case.seed}"), (STEPS,))
        for name, case in named.items()
    ]
    for name, records in train_all(options, work, trainings):
        yield Measured(named[name], round_floats(records[-1]))


def table(rows: Rows) -> str:
    """A line per layout, its seeds put together."""
    lines = []
    for layout in dict.fromkeys(row.arguments["layout"] for row in rows):
        own = [row for row in rows if row.arguments["layout"] == layout]
        found = [row.values for row in own]
        values = [[run[name] for run in found] for name in ("class_accuracy", "diversity")]
        values.append([run["nearest_training_clip"] / run["nearest_training_clip_real"] for run in found])
        speed = max(run["steps_per_second"] for run in found)
        cells = [over(one) for one in values[:2]]
        cells += [over([run.get("fvd16") for run in found], ".0f"), floor_of(found[0]), over(values[2])]
        lines.append((own, [f"`{layout}`", str(len(own)), *cells, str(found[0]["tokens"]), f"{speed:.1f}"]))
    return markdown_table(HEAD, lines)


STUDY = Study("latent_layouts", CODE, cases, measure, {"layouts": table})

if __name__ == "__main__":
    main(STUDY)
