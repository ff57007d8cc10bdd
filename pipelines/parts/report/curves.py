"""Training curves for the report: metrics.jsonl of a training stage -> one figure, drawn as SVG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.run.folder import read_jsonl

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3af",
    "axes.labelcolor": "#374151",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "legend.frameon": False,
    "svg.hashsalt": "report",  # the same numbers give the same bytes
}
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
PANEL_INCHES = (5.4, 2.9)


@dataclass(frozen=True)
class Panel:
    """One pair of axes: lines of training values and marks of validation values, by their names in metrics.jsonl."""

    title: str
    unit: str
    lines: dict[str, str]  # {name: label}
    marks: dict[str, str]  # {name: label}


PANELS = {
    "train_motion": (
        Panel(
            "Error of the warped first frame",
            "L1, video in [-1, 1]",
            {"motion_module/warp_l1": "warped", "motion_module/copy_l1": "copied"},
            {},
        ),
        Panel(
            "PSNR on held-out clips",
            "dB",
            {},
            {"validation/psnr_warp": "warped first frame", "validation/psnr_copy": "copied first frame"},
        ),
    ),
    "train_vae": (
        Panel("Loss", "weighted sum", {"vae/loss": "training"}, {}),
        Panel("PSNR of the reconstruction", "dB", {"vae/psnr": "training"}, {"validation/psnr": "held-out clips"}),
    ),
    "train_latte": (
        Panel(
            "Diffusion loss", "mean squared error", {"latte/loss": "training"}, {"validation/loss": "held-out clips"}
        ),
        Panel(
            "The same on held-out clips, per latent part",
            "mean squared error",
            {},
            {f"validation/loss_{part}": part for part in ("keyframe", "motion", "residual", "video")},
        ),
    ),
}


def draw_curves(metrics: Path, panels: Sequence[Panel]) -> str:
    """An SVG document with the panels side by side; "" where the log holds nothing that they show."""
    log = read_jsonl(metrics)
    shown = [panel for panel in panels if any(name in line for line in log for name in panel.lines | panel.marks)]
    if not shown:
        return ""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    with matplotlib.rc_context(STYLE), io.StringIO() as file:
        figure = Figure(figsize=(width * len(shown), height), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            draw_panel(axes, panel, log)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()


def draw_panel(axes: Any, panel: Panel, log: Sequence[dict[str, Any]]) -> None:
    """Lines and marks of one panel over the training step."""
    colours = iter(COLOURS)
    for names, style in ((panel.lines, "-"), (panel.marks, "o-")):
        for name, label in names.items():
            points = [(line["step"], line[name]) for line in log if name in line]
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, style, color=next(colours), label=label, linewidth=1.2, markersize=3.5)
    axes.set_title(panel.title)
    axes.set_xlabel("training step")
    axes.set_ylabel(panel.unit)
    axes.set_xlim(left=0)
    axes.legend(fontsize=8)
