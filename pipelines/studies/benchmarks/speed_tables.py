"""The tables of `benchmark.py vae`: medians over all processes and passes, ratios, and how they are printed."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Results = Mapping[str, list[dict[str, Any]]]  # label -> what its processes answered, round by round

CODING = ("encode_seconds", "decode_seconds")
# Rows with which the time of every row is compared.
REFERENCES = ("plain_vae", "deco_vae_repeat", "AutoencoderKLWan")
BASELINES = {"gradient_checkpointing": "training"}  # with what an option is compared, unless with the model's own row


def rows(
    names: Iterable[str], sizes: Mapping[str, dict], results: Results, errors: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The main table; a model that could not be measured has an "error", one that was not reached yet is absent."""
    table = [
        {"name": name} | (figures(results[name]) if name in results else {"error": errors[name]}) | sizes[name]
        for name in names
        if name in results or name in errors
    ]
    totals = {row["name"]: row["seconds"] for row in table if "seconds" in row}
    for row in table:
        if row["name"] in totals:
            row["gflops_per_second"] = round(row["gflops"] / row["seconds"], 2)
            row |= {f"time_to_{name}": round(row["seconds"] / totals[name], 4) for name in REFERENCES if name in totals}
    return table


def option_rows(labels: Iterable[str], results: Results, errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """The table of options: labels such as "deco_vae bf16", each compared with the same model without the option."""
    table = []
    for label in labels:
        name, option = label.split(" ")
        baseline = f"{name} {BASELINES[option]}" if option in BASELINES else name
        row = {"name": name, "option": option}
        if label in results:
            row |= figures(results[label])
            if baseline in results and option not in BASELINES.values():
                before = figures(results[baseline])
                row |= {
                    "baseline": baseline,
                    "speedup": round(before["seconds"] / row["seconds"], 4),
                    "memory_ratio": round(row["peak_gb"] / before["peak_gb"], 4),
                }
        elif label in errors:
            row["error"] = errors[label]
        else:
            continue
        table.append(row)
    return table


def figures(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the seconds over all rounds and passes, their sum and the sum of the fastest, the highest peak.

    spread: (slowest - fastest round) / median of the rounds' sums; 0 with one round. cpu_share: the lowest.
    """
    kinds = [kind for kind in (*CODING, "training_seconds") if kind in answers[0]]
    medians = {kind: median(second for answer in answers for second in answer[kind]) for kind in kinds}
    totals = [sum(median(answer[kind]) for kind in kinds) for answer in answers]
    return {
        **{kind: round(seconds, 5) for kind, seconds in medians.items()},
        "seconds": round(sum(medians.values()), 5),
        "spread": round((max(totals) - min(totals)) / median(totals), 4),
        "fastest_seconds": round(
            sum(min(second for answer in answers for second in answer[kind]) for kind in kinds), 5
        ),
        "cpu_share": min(answer["cpu_share"] for answer in answers),
        "rounds": len(answers),
        "peak_gb": round(max(answer["peak_gb"] for answer in answers), 3),
        "libraries_gb": round(max(answer["libraries_gb"] for answer in answers), 3),
    }


def describe_tables(content: Mapping[str, Any]) -> str:
    """Both tables as aligned text, with what they were measured on."""
    clip, machine = content["clip"], content["machine"]
    where = machine["device"] if machine["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    lines = [f"{clip['num_frames']} x {clip['height']} x {clip['width']}, {content['settings']['precision']}, {where}"]
    columns = {
        "name": "name", "encode s": "encode_seconds", "decode s": "decode_seconds", "spread": "spread",
        "CPU": "cpu_share", "GFLOP": "gflops", "GFLOP/s": "gflops_per_second", "parameters": "parameters",
        "peak GB": "peak_gb", "latent values": "latent_values",
        **{f"/ {name}": f"time_to_{name}" for name in REFERENCES},
    }  # fmt: skip
    lines += ["", *aligned(columns, content["rows"])]
    if content["options"]:
        columns = {
            "name": "name", "option": "option", "encode s": "encode_seconds", "decode s": "decode_seconds",
            "training s": "training_seconds", "peak GB": "peak_gb", "speed-up": "speedup", "memory": "memory_ratio",
        }  # fmt: skip
        lines += ["", *aligned(columns, content["options"])]
    failed = [row for row in (*content["rows"], *content["options"]) if "error" in row]
    return "\n".join([*lines, *(f"{row['name']} {row.get('option', '')}: {row['error']}" for row in failed)])


def aligned(columns: Mapping[str, str], table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table: a heading, then a row per entry; columns: heading -> key of an entry."""
    texts = [[_text(row.get(key)) for key in columns.values()] for row in table]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *texts, strict=True)]
    left = sum(isinstance(value, str) for value in list(table[0].values())[:2]) if table else 1
    return [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [list(columns), *texts]
    ]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
