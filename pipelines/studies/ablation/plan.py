"""What an ablation has to train: a configuration per row, a run per row and seed, a motion module per kind and seed.

Every run is an ordinary run folder below runs/<run.name>/; its experiment.yaml repeats it by hand.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipelines.inputs.index import DATA_MAY_CHANGE
from pipelines.inputs.training_stages import training_stages
from pipelines.run.config import load_config
from pipelines.run.folder import ALWAYS_MAY_CHANGE
from pipelines.studies.ablation.options import AblationRow, AblationSection, AblationStudy

REPOSITORY = Path(__file__).resolve().parents[3]
# What may differ between the rows' data: not the clips.
ROWS_MAY_CHANGE = ("data.flip", *DATA_MAY_CHANGE)
SECTIONS = (
    "data",
    "motion",
    "vae",
    "evaluate",
    "weights",
    "ablation",
    "run",
)  # of an experiment, those that a run reads
# What does not change the weights that a run ends with.
_INTERVALS = ("log_every", "validate_every", "preview_every", "checkpoint_every", "keep_checkpoints", "num_workers")
WITHOUT_EFFECT = (
    *ALWAYS_MAY_CHANGE,
    *DATA_MAY_CHANGE,
    *(f"{loop}.{name}" for loop in ("vae.loop", "motion.loop") for name in _INTERVALS),
    "vae.validation_clips",
    "motion.validation_clips",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run in a process of its own."""

    name: str  # folder below runs/<run.name>/
    kind: str  # "motion" (train_motion), "row" (train_vae, then scores) or "timing"
    config: AblationStudy
    rows: tuple[str, ...] = ()  # the rows that it belongs to: several where rows have the same settings
    seed: int = 0
    needs: str = ""  # the motion job that has to be done before

    @property
    def path(self) -> Path:
        """Its run folder."""
        return Path(self.config.run.root) / self.config.run.name


def chosen_rows(section: AblationSection) -> dict[str, AblationRow]:
    """The rows to run, by name, in the order of the table.

    Raises ValueError for an ablation without rows, names that are no folder names, and rows that do not exist.
    """
    if not section.rows:
        raise ValueError(
            "ablation.rows is empty: name the rows in a second YAML, as configs/studies/ablations.yaml does"
        )
    for name in section.rows:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(f"ablation.rows has a row {name!r}: use a name of letters, digits and _ . - only")
    wanted = section.only or tuple(section.rows)
    for name in (*wanted, reference_row(section), *(row.like for row in section.rows.values() if row.like)):
        if name not in section.rows:
            raise ValueError(f"ablation names a row {name!r} that does not exist: choose of {', '.join(section.rows)}")
    for name, row in section.rows.items():
        like = row.like or reference_row(section)
        if row.budget not in ("steps", "time"):
            raise ValueError(f"ablation.rows.{name}.budget is {row.budget!r}, but must be steps or time")
        if row.budget == "time" and section.rows[like].budget == "time":
            raise ValueError(f"ablation.rows.{name} gets the time of {like}, which must have budget steps itself")
    return {name: row for name, row in section.rows.items() if name in wanted}


def reference_row(section: AblationSection) -> str:
    """Name of the row that the others are compared with."""
    return section.reference or next(iter(section.rows))


def row_config(config: AblationStudy, name: str) -> AblationStudy:
    """The experiment of one row: the base with its overlays, then its options; still with the base's run section.

    Raises ValueError for an overlay that does not exist or does not fit, and for a row with other clips than the base.
    """
    row = config.ablation.rows[name]
    overlays = [str(find_overlay(overlay, config.ablation)) for overlay in row.overlays]
    try:
        changed = load_config(AblationStudy, [*overlays, *row.set], REPOSITORY / "configs", base=config)
    except ValueError as error:
        raise ValueError(f"ablation.rows.{name}: {error}") from error
    different = [
        option
        for option, *_ in differences(config, changed, ROWS_MAY_CHANGE)
        if option.startswith(("data.", "run.", "ablation."))
    ]
    if different:
        raise ValueError(
            f"ablation.rows.{name} changes {different[0]}, but all rows share data and run: set it in the base"
        )
    return changed


def find_overlay(name: str, section: AblationSection) -> Path:
    """The file of an overlay, in the first of the folders that holds it."""
    folders = [REPOSITORY / folder for folder in section.overlay_folders]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ValueError(
        f"there is no overlay {name!r} in {', '.join(section.overlay_folders)} (ablation.overlay_folders): choose of "
        f"{', '.join(known) or 'none'}"
    )


def plan_jobs(config: AblationStudy, rows: Mapping[str, AblationStudy], steps: Mapping[str, int]) -> list[Job]:
    """The runs in the order in which they start: seed by seed, row by row, a motion module before its first user.

    rows: from `row_config`. steps: of the rows that do not keep their own number. Rows of the same settings share runs.
    """
    jobs: dict[str, Job] = {}
    known: dict[tuple[int, str], str] = {}  # (seed, settings) -> run
    section = config.ablation
    num_seeds = {name: section.rows[name].seeds or section.seeds for name in rows}
    for number in range(max(num_seeds.values())):
        seed = config.run.seed + number
        for name, changed in rows.items():
            if number >= num_seeds[name]:
                continue
            if name in steps:
                changed = with_steps(changed, steps[name])
            run = known.setdefault((seed, settings_digest(changed)), f"{name}-seed{seed}")
            if run in jobs:
                jobs[run] = replace(jobs[run], rows=(*jobs[run].rows, name))
                continue
            needs = ""
            if "train_motion" in training_stages(changed):
                needs = f"motion/{motion_digest(changed)}-seed{seed}"
                jobs.setdefault(
                    needs, Job(needs, "motion", _as_run(motion_only(changed), config, needs, seed), seed=seed)
                )
                motion_from = str(jobs[needs].path)
                changed = replace(changed, vae=replace(changed.vae, motion_from=motion_from))
            jobs[run] = Job(run, "row", _as_run(changed, config, run, seed), (name,), seed, needs)
    return list(jobs.values())


def with_steps(config: AblationStudy, steps: int) -> AblationStudy:
    """The same training in another number of steps: the two phases and the discriminator begin at the same fraction."""
    vae, scale = config.vae, steps / max(config.vae.loop.steps, 1)
    phase_two, gan_start = vae.adaptation.phase_two_step, vae.gan.start_step
    vae = replace(
        vae,
        loop=replace(vae.loop, steps=steps),
        adaptation=replace(vae.adaptation, phase_two_step=round(phase_two * scale) if phase_two >= 0 else phase_two),
        gan=replace(vae.gan, start_step=round(gan_start * scale)),
    )
    return replace(config, vae=vae)


def motion_only(config: AblationStudy) -> AblationStudy:
    """What train_motion reads of a row, and defaults for the rest: rows with the same motion module give the same."""
    deco_vae = replace(AblationStudy().vae.deco_vae, motion_module=config.vae.deco_vae.motion_module)
    vae = replace(AblationStudy().vae, deco_vae=deco_vae)
    return replace(AblationStudy(), data=config.data, motion=config.motion, vae=vae)


def motion_digest(config: AblationStudy) -> str:
    """Short name of what decides a motion module's weights, and the time of its training, besides the seed."""
    return _digest(config, ("data.", "motion.", "vae.deco_vae.motion_module."))


def settings_digest(config: AblationStudy) -> str:
    """Short name of what decides a row's weights, and the time of its training, besides the seed."""
    return _digest(
        config, ("data.", "motion.", "vae.") if "train_motion" in training_stages(config) else ("data.", "vae.")
    )


def _digest(config: AblationStudy, sections: tuple[str, ...]) -> str:
    # only what differs from the defaults, so that a new option changes no name
    changed = {name: new for name, _, new in differences(AblationStudy(), config, WITHOUT_EFFECT)}
    relevant = {name: value for name, value in changed.items() if name.startswith(sections)}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]


def differences(
    old: AblationStudy, new: AblationStudy, without: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every option that differs, except those that a glob of `without` names."""
    before, now = flatten(asdict(old)), flatten(asdict(new))
    for name in sorted(before.keys() | now.keys()):
        was, is_now = before.get(name), now.get(name)
        if was != is_now and not any(fnmatchcase(name, glob) for glob in without):
            yield name, was, is_now


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> {dotted name: value}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:  # a tuple that comes from a YAML is a list
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _as_run(changed: AblationStudy, config: AblationStudy, name: str, seed: int) -> AblationStudy:
    run = replace(config.run, name=f"{config.run.name}/{name}", seed=seed)
    scoring = AblationSection(strides=config.ablation.strides, clips_per_video=config.ablation.clips_per_video)
    trained = {"data": changed.data, "motion": changed.motion, "vae": changed.vae}
    return replace(
        AblationStudy(), **trained, run=run, ablation=scoring, weights=config.weights, evaluate=config.evaluate
    )
