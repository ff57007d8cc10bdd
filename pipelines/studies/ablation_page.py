"""The tables of docs/results/vae_ablation.md: a line per row, its seeds put together."""

from collections.abc import Iterator, Mapping
from statistics import fmean, stdev
from typing import Any

from pipelines.studies.result_rows import Row, Rows, Tables, markdown_table

REFERENCE = "default"
CONTEST = (
    ("default", "plain_equal_latents", "equal latents and steps", 0.5),
    ("default", "plain_equal_parameters", "equal latents, steps and parameters, the motion module's count", 0.3),
    ("default", "plain_equal_time", "equal training time of the autoencoder", -0.1),
)
HEAD = [
    *("row", "seeds", "PSNR", "minus default", "SSIM", "LPIPS", "rfvd-per-clip", "rFVD", "keyframe", "decoded warp"),
    *(
        "latents",
        "VAE parameters",
        "motion module",
        "GFLOPs",
        "steps",
        "s/step",
        "training s",
        "with the motion module",
    ),
]


def scored_on(name: str, rows: Rows, files: str = "") -> dict[str, dict[int, Row]]:
    """{row of the ablation: {seed: its result}} of the rows that were scored on the set `name`.

    files: what was done to the order of the files; empty = nothing.
    """
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        if (row.arguments["scored_on"], row.arguments.get("files", "")) == (name, files) and row.seed is not None:
            found.setdefault(row.arguments["row"], {})[row.seed] = row
    return found


def measured_again(rows: Rows) -> str:
    """The rows that were trained anew with the files in another order, beside the first measurement."""
    first, again = scored_on("judge", rows), scored_on("judge", rows, "in another order")
    lines = []
    for name, by_seed in again.items():
        gain = over(list(differences(by_seed, again[REFERENCE])), "+.2f")
        before = over(list(differences(first[name], first[REFERENCE])), "+.2f")
        psnr = over([row.values["psnr"] for row in by_seed.values()])
        steps = str(next(iter(by_seed.values())).values["steps"])
        lines.append((list(by_seed.values()), [name, steps, psnr, gain, before]))
    return markdown_table(["row", "steps", "PSNR", "minus default", "in the table"], lines)


def table_of(name: str, rows: Rows) -> str:
    """All rows that were scored on one set, with mean and standard deviation over their seeds."""
    found = scored_on(name, rows)
    if not found:
        return f"Nothing has been scored on `{name}` yet."
    lines = [(list(by_seed.values()), _cells(row, by_seed, found)) for row, by_seed in found.items()]
    return markdown_table(HEAD, lines)


def groups_of(name: str, rows: Rows) -> str:
    """PSNR of the same rows by groups of clips and strides."""
    found = scored_on(name, rows)
    first = next((row for by_seed in found.values() for row in by_seed.values()), None)
    if first is None:
        return f"Nothing has been scored on `{name}` yet."
    groups = first.values["groups"]
    head = ["row", *(f"{group}, {values['clips']} clips" for group, values in groups.items())]
    lines = [
        (
            list(by_seed.values()),
            [row, *(over([run.values["groups"][group]["psnr"] for run in by_seed.values()]) for group in groups)],
        )
        for row, by_seed in found.items()
    ]
    return markdown_table(head, lines)


def contest(rows: Rows) -> str:
    """The claims against the plain autoencoder, on the set that no search was judged on."""
    found = scored_on("test", rows)
    lines = []
    for ours, other, claim, bound in CONTEST:
        if ours in found and other in found:
            gains = list(differences(found[ours], found[other]))
            holds = "yes" if gains and fmean(gains) >= bound else "no"
            behind = [*found[ours].values(), *found[other].values()]
            lines.append((behind, [f"{claim}: {bound:+.1f} dB", f"{over(gains, '+.2f')} dB", holds]))
    if not lines:
        return "Nothing has been scored on `test` yet."
    return markdown_table(["claim: the default against a plain VAE at", "measured", "holds"], lines)


def differences(ours: Mapping[int, Row], others: Mapping[int, Row]) -> Iterator[float]:
    """PSNR of a row minus that of another, seed by seed."""
    for seed, row in ours.items():
        if seed in others:
            yield row.values["psnr"] - others[seed].values["psnr"]


def _cells(name: str, by_seed: Mapping[int, Row], found: Mapping[str, Mapping[int, Row]]) -> list[str]:
    runs = [row.values for row in by_seed.values()]
    gains = list(differences(by_seed, found.get(REFERENCE, {})))
    first = runs[0]
    scores = [over([run["psnr"] for run in runs]), over(gains, "+.2f"), over([run["ssim"] for run in runs], ".4f")]
    scores += [
        over([run.get("lpips_alex") for run in runs], ".4f"),
        over([run.get("rfvd_per_clip") for run in runs], ".1f"),
    ]
    sets = [run.get("sets", {}) for run in runs]
    scores += [over([one["rfvd"]["value"] for one in sets if "rfvd" in one], ".0f")]
    parts = [over([run[part] for run in runs]) for part in ("psnr_keyframe", "psnr_warp_decoded")]
    sizes = [first["latent_values"], first["parameters"]["vae"], first["parameters"]["motion_module"]]
    costs = [f"{first['gflops']:.2f}", str(first["steps"]), _number(first["seconds_per_step"], ".3f")]
    seconds = [_number(first[name], ".0f") for name in ("training_seconds", "training_seconds_with_motion")]
    return [name, str(len(runs)), *scores, *parts, *(f"{size:,}" for size in sizes), *costs, *seconds]


def over(values: list[Any], form: str = ".2f") -> str:
    """Mean and standard deviation of what is known; "-" where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {stdev(known):{form.lstrip('+')}}" if len(known) > 1 else ""
    return f"{fmean(known):{form}}{spread}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


TABLES: Tables = {
    "test": lambda rows: table_of("test", rows),
    "contest": contest,
    "test_groups": lambda rows: groups_of("test", rows),
    "judge": lambda rows: table_of("judge", rows),
    "again": measured_again,
}
