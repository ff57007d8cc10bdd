"""The words of the report: headline numbers with what they are compared against, and the meaning of every score."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.metrics.declared import scores_among

CURVES = {
    "train_motion": "self-supervised: warp the first frame of a clip onto the others",
    "train_vae": "the autoencoder, starting from the motion module",
    "train_latte": "the diffusion transformer on whitened latents",
}


def headline(
    scores: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Mapping[str, Any]], num_classes: int
) -> list[dict[str, Any]]:
    """The tiles at the top of the page: {"name", "value", "unit", "bars", "note"}; the first bar is that value."""
    clips, videos = scores["reconstruction"], scores["generation"]
    tiles = [
        {
            "name": "Reconstruction of held-out clips",
            "value": f"{clips['psnr']:.1f}",
            "unit": "dB PSNR",
            "bars": bars(
                [
                    ("reconstruction", clips["psnr"]),
                    ("warp, decoded", clips.get("psnr_warp_decoded")),
                    ("warp, uncoded", clips.get("psnr_warp_only")),
                    ("first frame copied", clips["psnr_copy_first_frame"]),
                ],
                ".1f",
            ),
            "note": f"Mean over {clips['clips']} clips.",
        }
    ]
    if "class_accuracy" in videos:
        tiles.append(
            {
                "name": "Class accuracy of generated videos",
                "value": f"{videos['class_accuracy']:.3f}",
                "unit": "",
                "bars": bars(
                    [
                        ("generated", videos["class_accuracy"]),
                        ("real clips", videos.get("class_accuracy_real")),
                        ("real clips, decoded", videos.get("class_accuracy_real_decoded")),
                        ("first frame alone", videos.get("class_accuracy_first_frame")),
                        ("chance", 1 / num_classes),
                    ],
                    ".3f",
                ),
                "note": "The motion of the drawing that fits best."
                if videos.get("class_accuracy_record")
                else "Judged by a small classifier trained on real clips and their reconstructions.",
            }
        )
    if videos["diversity"] is not None:
        tiles.append(
            {
                "name": "Diversity within a class",
                "value": f"{videos['diversity']:.2f}",
                "unit": "of real clips",
                "bars": bars([("generated", videos["diversity"]), ("real clips", 1.0)], ".2f"),
                "note": "Mean pairwise distance, relative to that of real clips.",
            }
        )
    return [*tiles, frechet_tile(videos), cost_tile(stages)]


def frechet_record(videos: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the Frechet video distance, real or proxy, among the scores of generated videos."""
    return next(v for name, v in videos.items() if name.startswith(("fvd", "proxy_fvd")) and name.endswith("_record"))


def frechet_tile(videos: Mapping[str, Any]) -> dict[str, Any]:
    """The Frechet video distance, called a proxy where it is one."""
    record = frechet_record(videos)
    counts = f"{record['num_fake']} generated against {record['num_real']} real clips, {record['num_sets']} set(s)"
    is_proxy, floor = record["name"].startswith("proxy"), (record.get("floor") or {}).get("value")
    return {
        "name": "Fréchet video distance, proxy" if is_proxy else "Fréchet video distance",
        "value": f"{record['value']:,.0f}" if record["value"] >= 1000 else f"{record['value']:.4g}",
        "unit": record["name"],
        "bars": bars([("generated", record["value"]), ("two sets of real clips", floor)], ".4g"),
        "note": f"{counts}, protocol {record['protocol']['name']}{'' if record['complete'] else ' with deviations'}."
        + (" I3D with random weights: compare it with other runs of this project only." if is_proxy else ""),
    }


def cost_tile(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Time and memory of everything behind the page, the slowest stages as bars."""
    seconds = {stage: entry["seconds"] for stage, entry in stages.items()}
    slowest = sorted(seconds, key=lambda stage: -seconds[stage])[:3]
    total = sum(seconds.values())
    return {
        "name": "Whole chain",
        "value": f"{total / 60:.1f}" if total >= 60 else f"{total:.0f}",
        "unit": "minutes" if total >= 60 else "seconds",
        "bars": bars([("all stages", total), *((stage, seconds[stage]) for stage in slowest)], ".0f", " s"),
        "note": f"At most {max(entry['peak_rss_gb'] for entry in stages.values()):.1f} GB of memory.",
    }


def bars(values: Sequence[tuple[str, float | None]], digits: str, unit: str = "") -> list[dict[str, Any]]:
    """Labelled bars in proportion to the largest value; what is None is left out."""
    known = [(label, value) for label, value in values if value is not None]
    largest = max((value for _, value in known), default=0) or 1
    return [
        {"label": label, "text": f"{value:{digits}}{unit}", "percent": round(100 * max(value, 0) / largest, 1)}
        for label, value in known
    ]


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Every score with its value and what it means; the smallest and largest of its seeds where there are several."""
    table = []
    for values in scores.values():
        for metric, value in scores_among(values):
            seeds = values.get(f"{metric.name}_per_seed") or []
            text = f"{value:.4g}" + (f" ({min(seeds):.3g} – {max(seeds):.3g})" if len(seeds) > 1 else "")
            table.append({"name": metric.name, "value": text, "meaning": metric.meaning})
    return table
