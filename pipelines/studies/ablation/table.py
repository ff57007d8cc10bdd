"""The table of an ablation, from what its runs left behind: runs/NAME/ablation.json and ablation.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pipelines.studies.ablation.options import AblationSection, AblationStudy
from pipelines.studies.ablation.plan import Job, reference_row
from pipelines.studies.ablation.scores import METRICS, group_of
from pipelines.studies.ablation.timing import Timing, motion_seconds, seconds_per_step

WALL = ("wall_seconds", "wall_seconds_with_motion")
COLUMNS = [
    *("SSIM", "keyframe", "warp", "decoded warp", "latents", "VAE parameters", "motion module", "GFLOPs", "steps"),
    *("s/step", "training s", "with motion", "wall s", "with motion"),
]
NOTE = """PSNR (dB) and SSIM: mean and standard deviation over seeds of the mean over groups. Latents: numbers per clip.
GFLOPs: encoding and decoding one clip, motion module included, the warp not. s/step and training s: at the pace that
was measured beforehand, row by row in turns; wall s: as it took, whatever else the machine did."""
Run = dict[str, Any]


def build_table(
    config: AblationStudy,
    rows: Mapping[str, AblationStudy],
    jobs: Sequence[Job],
    timing: Timing,
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Everything the table says, from the runs that are finished.

    A score is {"mean", "spread", "per_seed"}: means over the groups' means over clips; the spread is the standard
    deviation over seeds (n - 1), None for one seed. "difference" is that of PSNR to the reference row, seed by seed.
    """
    section = config.ablation
    runs = {job.name: read_run(job, section) for job in jobs if job.kind == "row"}
    by_row = {name: {job.seed: runs[job.name] for job in jobs if name in job.rows} for name in rows}
    finished = {name: {seed: run for seed, run in of.items() if run} for name, of in by_row.items()}
    reference = reference_row(section)
    entries = []
    for name, changed in rows.items():
        row = section.rows[name]
        entry: dict[str, Any] = {"name": name, **asdict(row), "like": row.like or reference}
        entry |= {"seeds": len(by_row[name]), "seeds_finished": len(finished[name])}
        problems = {job.name: failed[job.name] for job in jobs if name in job.rows and job.name in failed}
        entry |= {"failed": problems} if problems else {}
        steps = next(job.config.vae.loop.steps for job in jobs if name in job.rows)
        entry |= {"steps": steps, **expected_seconds(changed, steps, timing)}
        if finished[name]:
            entry |= summarise(finished[name], finished.get(reference, {}))
        entries.append(entry)
    return {"reference": reference, "groups": list(section.groups), "rows": entries}


def expected_seconds(config: AblationStudy, steps: int, timing: Timing) -> dict[str, float | None]:
    """What a row's training costs at the pace that was measured beforehand; None where it was not."""
    names = ("seconds_per_step", "training_seconds", "training_seconds_with_motion")
    per_step = seconds_per_step(config, timing)
    if per_step is None:
        return dict.fromkeys(names)
    training = steps * per_step
    values = (per_step, training, training + motion_seconds(config, timing))
    return {name: round(value, 5) for name, value in zip(names, values, strict=True)}


def read_run(job: Job, section: AblationSection) -> Run | None:
    """What a finished run left behind; None while it is not finished."""
    scores, done = _read(job.path / "scores.json"), _read(job.path / "train_vae" / "done.json")
    if scores is None or done is None:
        return None
    motion = _read(Path(job.config.vae.motion_from) / "train_motion" / "done.json") if job.needs else None
    provenance = _read(job.path / "train_vae" / "provenance.json") or {}
    groups = group_means(scores["clips"], section.groups)
    return {
        "model": scores["model"],
        "groups": groups,
        "means": average_groups(groups),
        "sets": scores.get("sets", []),
        "wall_seconds": done["seconds"],
        "wall_seconds_with_motion": done["seconds"] + (motion["seconds"] if motion else 0.0),
        "git_commit": provenance.get("git_commit"),
    }


def group_means(clips: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """{group: {metric: mean over its clips}}; several strides make a group each, such as "ucf101/3"."""
    strides = {clip["stride"] for clip in clips}
    members: dict[str, list[Mapping[str, Any]]] = {}
    for clip in clips:
        name = group_of(clip["path"], groups)
        members.setdefault(f"{name}/{clip['stride']}" if len(strides) > 1 else name, []).append(clip)
    return {
        group: {metric: mean_or_none([clip[metric] for clip in found]) for metric in METRICS} | {"clips": len(found)}
        for group, found in sorted(members.items())
    }


def average_groups(groups: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """{metric: mean over groups}: a group counts the same however many clips it has."""
    return {metric: mean_or_none([values[metric] for values in groups.values()]) for metric in METRICS}


def summarise(runs: Mapping[int, Run], reference: Mapping[int, Run]) -> dict[str, Any]:
    """The entry of one row: scores over its seeds, and what it costs."""
    first = next(iter(runs.values()))
    pairs = {seed: (run, reference[seed]) for seed, run in runs.items() if seed in reference}
    groups = {}
    for group, values in first["groups"].items():
        groups[group] = {"clips": values["clips"]} | {
            metric: over_seeds({seed: run["groups"][group][metric] for seed, run in runs.items()}) for metric in METRICS
        }
        groups[group]["difference"] = over_seeds(
            {
                seed: run["groups"][group]["psnr"] - other["groups"][group]["psnr"]
                for seed, (run, other) in pairs.items()
            }
        )
    return {
        **{metric: over_seeds({seed: run["means"][metric] for seed, run in runs.items()}) for metric in METRICS},
        "difference": over_seeds(
            {seed: run["means"]["psnr"] - other["means"]["psnr"] for seed, (run, other) in pairs.items()}
        ),
        "groups": groups,
        **first["model"],
        **{name: round(fmean(run[name] for run in runs.values()), 1) for name in WALL},
        "git_commits": sorted({str(run["git_commit"]) for run in runs.values()}),
    }


def over_seeds(per_seed: Mapping[int, float | None]) -> dict[str, Any] | None:
    """{"mean", "spread", "per_seed"} of one number; None where there is none."""
    values = [value for value in per_seed.values() if value is not None]
    if not values:
        return None
    spread = round(stdev(values), 5) if len(values) > 1 else None
    rounded = {str(seed): None if value is None else round(value, 5) for seed, value in per_seed.items()}
    return {"mean": round(fmean(values), 5), "spread": spread, "per_seed": rounded}


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Mean of the numbers among `values`; None when there is none."""
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def to_markdown(table: Mapping[str, Any]) -> str:
    """The table for reading: one of rows, one of groups, and what failed."""
    rows = [row for row in table["rows"] if "psnr" in row]
    head = ["row", "seeds", "PSNR", f"minus {table['reference']}", *COLUMNS]
    lines = [*_table(head, [_row_cells(row) for row in rows]), "", NOTE, ""]
    groups = list(dict.fromkeys(group for row in rows for group in row["groups"]))
    cells = [[row["name"], *(_group_cell(row["groups"].get(group)) for group in groups)] for row in rows]
    counts = {group: values["clips"] for row in rows for group, values in row["groups"].items()}
    lines += _table(["PSNR / SSIM (difference)", *(f"{group}, {counts[group]} clips" for group in groups)], cells)
    waiting = [
        f"{row['name']} ({row['seeds_finished']} of {row['seeds']} runs)"
        for row in table["rows"]
        if row["seeds_finished"] < row["seeds"]
    ]
    lines += ["", f"Not finished: {', '.join(waiting)}"] if waiting else []
    problems = [f"{name}: {reason}" for row in table["rows"] for name, reason in row.get("failed", {}).items()]
    lines += ["", *(f"- {problem}" for problem in problems)] if problems else []
    return "\n".join(lines) + "\n"


def _row_cells(row: Mapping[str, Any]) -> list[str]:
    components = [_value(row[name]) for name in ("psnr_keyframe", "psnr_warp_only", "psnr_warp_decoded")]
    size = [f"{row['latent_values']:,}", f"{row['parameters']['vae']:,}", f"{row['parameters']['motion_module']:,}"]
    names = ("training_seconds", "training_seconds_with_motion", *WALL)
    seconds = ["-" if row[name] is None else f"{row[name]:.0f}" for name in names]
    per_step = "-" if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.3f}"
    cost = [f"{row['gflops']:.2f}", str(row["steps"]), per_step, *seconds]
    scores = [_value(row["psnr"]), _value(row["difference"], "+.2f"), _value(row["ssim"], ".4f")]
    return [row["name"], str(row["seeds_finished"]), *scores, *components, *size, *cost]


def _group_cell(group: Mapping[str, Any] | None) -> str:
    if group is None:
        return "-"
    difference = _value(group["difference"], "+.2f", spread=False)
    return f"{_value(group['psnr'], spread=False)} / {_value(group['ssim'], '.3f', spread=False)} ({difference})"


def _value(score: Mapping[str, Any] | None, form: str = ".2f", spread: bool = True) -> str:
    if score is None:
        return "-"
    has_spread = spread and score["spread"] is not None
    return f"{score['mean']:{form}}" + (f" ± {score['spread']:{form.lstrip('+')}}" if has_spread else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
