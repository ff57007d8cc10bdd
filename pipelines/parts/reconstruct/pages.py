"""What the reconstruct stage says about all files together: scores.json, a printed table, and index.html."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

import torch
from safetensors.torch import load_file

from pipelines.data.pages import page_environment
from pipelines.data.video_sources import Unreadable
from pipelines.metrics.rfvd import reconstruction_distances
from pipelines.parts.reconstruct.folders import file_folder, printable
from pipelines.run.folder import write_text

DEFINITIONS = {
    "psnr": "dB, of every frame (frame 0 included), mean over frames, then over files; identical frames give 100",
    "ssim": "Gaussian window of 11, sigma 1.5, mean of R, G and B, over frames, then over files",
    "lpips": "mean over frames, then over files; lower is better",
    "rfvd": "one Frechet distance between the I3D features of all original and of all reconstructed clips",
    "rfvd_per_clip": "mean over clips of the squared distance of the features: what LeanVAE and WF-VAE call rFVD",
    "psnr_keyframe": "of decoded keyframes",
    "psnr_copy_first_frame": "of the keyframe shown instead of all frames after it: what motion has to beat",
    "psnr_warp_only": "of the keyframe warped by the motion, both as they are before coding",
    "psnr_warp_decoded": "of the decoded keyframe warped by the decoded motion",
    "flow_error_pixels": "mean length of the difference between decoded and true flow",
    "latent_values_per_frame": "numbers that are stored per frame, all parts together",
    "in_memory": "uint8 pixels as the autoencoder gives them",
    "leanvae": "the reconstruction is read back from an H.264 file of crf 10",
    "wfvae": "original and reconstruction are both read back from MPEG-4 files as OpenCV's mp4v writes them",
}
# Column of the table -> where its value stands in a record, and how it is written.
COLUMNS = {
    "PSNR": ("psnr", "{:.2f}"),
    "SSIM": ("ssim", "{:.4f}"),
    "LPIPS": ("lpips", "{:.4f}"),
    "keyframe": ("psnr_keyframe", "{:.2f}"),
    "copy": ("psnr_copy_first_frame", "{:.2f}"),
    "warp": ("psnr_warp_only", "{:.2f}"),
    "decoded warp": ("psnr_warp_decoded", "{:.2f}"),
    "latents/frame": ("latent_values_per_frame", "{:.0f}"),
}
LONGEST_NAME = 44


def summarise(
    folder: Path, records: Sequence[dict[str, Any]], unreadable: Sequence[Unreadable], weights: dict[str, str]
) -> dict[str, Any]:
    """Scores over all files, of every file, and the reason for every file without scores.

    records: the scores.json of every file; weights: the files of LPIPS and I3D, "" where absent.
    """
    protocols = list(records[0]["scores"]) if records else []
    mean = {}
    for name in protocols:
        mean[name] = means([record["scores"][name] for record in records]) | distances(folder, records, name)
    shown = [{name: value for name, value in record.items() if name != "psnr_per_frame"} for record in records]
    return {
        "mean": mean,
        "components": means([record["components"] for record in records]),
        "latent_values_per_frame": means([{"value": record["latent_values_per_frame"]} for record in records]),
        "num_files": len(records),
        "num_frames": sum(record["frames"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "weights": {name: file or "absent" for name, file in weights.items()},
        "definitions": DEFINITIONS,
        "files": shown,
        "unreadable": [{"file": printable(file.name), "reason": printable(file.reason)} for file in unreadable],
    }


def means(scores: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of every score over the files that have it; None where none has."""
    names = scores[0] if scores else {}
    values = {name: [score[name] for score in scores if score[name] is not None] for name in names}
    return {name: fmean(found) if found else None for name, found in values.items()}


def distances(folder: Path, records: Sequence[dict[str, Any]], protocol: str) -> dict[str, float | int | None]:
    """rFVD in both senses over the clips of all files; {} where no features were wanted, or I3D was not there."""
    files = [file_folder(folder, record["file"]) / "features.safetensors" for record in records]
    features = [load_file(file) for file in files if file.exists()]
    if not features:
        return {}
    sides = [torch.cat([part[f"{protocol}/{side}"] for part in features]) for side in ("original", "reconstruction")]
    return reconstruction_distances(*sides, is_proxy=False)


def printed_table(summary: dict[str, Any]) -> Iterator[str]:
    """A line per file, the means, then what every protocol says about all files."""
    records = summary["files"]
    protocol = next(iter(summary["mean"]))
    columns = {name: spec for name, spec in COLUMNS.items() if any(cell(r, protocol, spec) != "-" for r in records)}
    width = min(max(len(record["file"]) for record in records), LONGEST_NAME)
    lines = [[f"{'file':<{width}}", "frames", "size", *columns]]
    for record in records:
        name, size = record["file"][-width:], f"{record['width']}x{record['height']}"
        cells = [cell(record, protocol, spec) for spec in columns.values()]
        lines.append([f"{name:<{width}}", str(record["frames"]), size, *cells])
    average = {
        "scores": summary["mean"],
        "components": summary["components"],
        "latent_values_per_frame": summary["latent_values_per_frame"]["value"],
    }
    mean_cells = [cell(average, protocol, spec) for spec in columns.values()]
    lines.append([f"{'mean':<{width}}", str(summary["num_frames"]), "", *mean_cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(
            text.rjust(size) if i else text for i, (text, size) in enumerate(zip(line, widths, strict=True))
        )
    for name, scores in summary["mean"].items():
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in scores.items() if value is not None)
        yield f"{name}: {numbers}"
    if summary["weights"]["lpips"] == "absent":
        yield "the weights of LPIPS are absent: it was not measured"
    if summary["weights"]["i3d"] == "absent":
        yield "the weights of I3D are absent: rFVD was not measured"


def cell(record: dict[str, Any], protocol: str, spec: tuple[str, str]) -> str:
    """One number of a record as text; "-" where there is none."""
    name, form = spec
    value = ({**record["scores"][protocol], **record["components"], **record}).get(name)
    return "-" if value is None else form.format(value)


def write_page(folder: Path, summary: dict[str, Any]) -> None:
    """index.html beside the files: means, table, videos and figures (by relative links)."""
    environment = page_environment(Path(__file__).parent)
    environment.filters["link"] = lambda name: quote(str(file_folder(Path(), name)), errors="surrogateescape")
    environment.filters["text"] = printable
    protocol = next(iter(summary["mean"]), "")
    rows = [
        (record, [cell(record, protocol, spec) for spec in COLUMNS.values()],
         {file: (file_folder(folder, record["file"]) / file).exists()
          for file in ("side_by_side.mp4", "reconstruction.mp4", "components.png")})
        for record in summary["files"]
    ]  # fmt: skip
    page = environment.get_template("page.html.jinja").render(
        summary=summary, rows=rows, columns=list(COLUMNS), protocol=protocol
    )
    write_text(folder / "index.html", page)
