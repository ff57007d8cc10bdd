"""Draws docs/images/architecture.svg, how a clip becomes a sample: python docs/architecture_picture.py, or make docs.

Every arrow names the stage that does it and the files to read; tests/test_docs.py checks that they exist.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, HEIGHT = 1220, 600
BOX_WIDTH, LINE = 140, 17
COLUMNS = (30, 370, 710, 1050)  # left edges of the boxes
TOP, MIDDLE, BOTTOM = 20, 260, 430  # upper edges of the rows
KEYFRAME, MOTION, RESIDUAL = "#dbeafe", "#dcfce7", "#fee2e2"
PLAIN, MODEL = "#f3f4f6", "#fef3c7"
STYLE = """text { font: 14px Helvetica, Arial, sans-serif; fill: #111827; text-anchor: middle }
.small { font-size: 12px; fill: #4b5563 } .stage { font-weight: bold } .file { font: 12.5px Menlo, Consolas, monospace }
rect.box { stroke: #6b7280; rx: 6 } path { stroke: #374151; stroke-width: 1.5; fill: none; marker-end: url(#head) }
path.other { stroke-dasharray: 5 4 }"""


@dataclass(frozen=True)
class Box:
    """Data or a model; `note` stands small below its name."""

    left: int
    top: int
    name: str
    note: str = ""
    fill: str = PLAIN
    height: int = 46


@dataclass(frozen=True)
class Arrow:
    """A step from point to point; beside it the stage, then the files that do it, a room at a time."""

    start: tuple[int, int]
    end: tuple[int, int]
    label: tuple[int, int]  # middle of the first line
    stage: str
    files: tuple[str, ...] = ()
    is_other: bool = False  # beside the way from clip to sample: drawn dashed


def parts(left: int, top: int, names: tuple[str, str, str], notes: tuple[str, str, str]) -> list[Box]:
    """The three boxes of keyframe, motion and residual, one below the other."""
    fills = (KEYFRAME, MOTION, RESIDUAL)
    return [Box(left, top + 50 * i, names[i], notes[i], fills[i]) for i in range(3)]


# Shapes are those of configs/demo.yaml: (channels, frames, height, width).
BOXES = [
    Box(COLUMNS[0], TOP + 50, "clip", "(3, 17, 64, 64)"),
    *parts(
        *(COLUMNS[1], TOP, ("keyframe", "motion", "residual")),
        ("first frame", "flow and scale", "what warping misses"),
    ),
    *parts(
        COLUMNS[2], TOP, ("z keyframe", "z motion", "z residual"), ("(12, 1, 8, 8)", "(4, 4, 8, 8)", "(8, 4, 8, 8)")
    ),
    Box(COLUMNS[3], TOP + 50, "latent cache", "moments, labels"),
    Box(COLUMNS[3], MIDDLE, "Latte", "averaged weights", MODEL),
    Box(COLUMNS[2] + 60, MIDDLE, "class and seed", "noise per seed"),
    *parts(COLUMNS[3], BOTTOM, ("z keyframe", "z motion", "z residual"), ("new", "new", "new")),
    *parts(COLUMNS[2], BOTTOM, ("keyframe", "motion", "residual"), ("decoded", "decoded", "decoded")),
    Box(COLUMNS[1], BOTTOM + 50, "sample", "(3, 17, 64, 64)"),
    Box(COLUMNS[0], BOTTOM + 50, "scores", "FVD and friends"),
]


def between(first: int, second: int, top: int, stage: str, *files: str) -> Arrow:
    """An arrow along a row from column to column, label above and below its middle."""
    forward = first < second
    start = COLUMNS[first] + (BOX_WIDTH if forward else 0)
    end = COLUMNS[second] + (0 if forward else BOX_WIDTH)
    y = top + 73
    return Arrow((start + (6 if forward else -6), y), (end - (8 if forward else -8), y),
                 ((start + end) // 2, y - 8), stage, files)  # fmt: skip


ARROWS = [
    between(0, 1, TOP, "prepare_data, train_motion",
            "vae/motion_module.py", "vae/scale_space_flow.py", "vae/decoupling.py"),
    between(1, 2, TOP, "train_vae", "vae/encoder.py", "vae/blocks.py", "vae/bottleneck.py"),
    between(2, 3, TOP, "cache_latents", "pipelines/data/", "latent_cache_writer.py"),
    Arrow((1120, TOP + 98), (1120, MIDDLE - 8), (1120, TOP + 126), "train_latte",
          ("latte/latent_layout.py", "latte/latte.py", "latte/trainer.py")),
    Arrow((COLUMNS[2] + 206, MIDDLE + 23), (COLUMNS[3] - 8, MIDDLE + 23), (0, 0), ""),
    Arrow((1120, MIDDLE + 48), (1120, BOTTOM - 8), (1120, MIDDLE + 74), "sample",
          ("latte/sampler.py", "latte/guidance.py", "latte/solvers.py")),
    between(3, 2, BOTTOM, "sample", "vae/decoder.py", "vae/deco_vae.py"),
    between(2, 1, BOTTOM, "sample", "vae/scale_space_flow.py", "vae/decoupling.py", "pipelines/data/", "video_file.py"),
    between(1, 0, BOTTOM, "evaluate", "pipelines/metrics/", "fvd.py", "i3d.py"),
    Arrow((100, TOP + 98), (100, BOTTOM + 42), (100, MIDDLE + 10), "evaluate",
          ("pipelines/metrics/", "fvd_protocols.py"), is_other=True),
    Arrow((COLUMNS[2] + 25, TOP + 148), (COLUMNS[2] + 25, BOTTOM - 8), (COLUMNS[2] - 45, MIDDLE + 27), "reconstruct",
          is_other=True),
]  # fmt: skip


def drawn_box(box: Box) -> list[str]:
    """The lines of SVG that show a box."""
    x = box.left + BOX_WIDTH // 2
    name = f'<text x="{x}" y="{box.top + (20 if box.note else 28)}">{escape(box.name)}</text>'
    note = f'<text class="small" x="{x}" y="{box.top + 37}">{escape(box.note)}</text>'
    size = f'width="{BOX_WIDTH}" height="{box.height}"'
    return [f'<rect class="box" x="{box.left}" y="{box.top}" {size} fill="{box.fill}"/>', name, note]


def drawn_arrow(arrow: Arrow) -> list[str]:
    """The lines of SVG that show an arrow and its label; along a row the files stand below the line."""
    (x1, y1), (x2, y2), (x, y) = arrow.start, arrow.end, arrow.label
    kind = ' class="other"' if arrow.is_other else ""
    lines = [f'<path{kind} d="M{x1} {y1} L{x2} {y2}"/>']
    first_file = y + 2 * LINE - 4 if y1 == y2 else y + LINE
    words = [("stage", arrow.stage, y)] if arrow.stage else []
    words += [("file", name, first_file + LINE * i) for i, name in enumerate(arrow.files)]
    if y1 != y2 and words and x1 == x:  # the line must not run through its own label
        lines.append(f'<rect x="{x - 84}" y="{y - 14}" width="168" height="{LINE * len(words) + 3}" fill="white"/>')
    return lines + [f'<text class="{kind}" x="{x}" y="{height}">{escape(text)}</text>' for kind, text, height in words]


def picture() -> str:
    """The whole picture as SVG text."""
    head = '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<style>{STYLE}</style>",
        f'<defs>{head}<path d="M0 0 L10 5 L0 10 z" style="fill:#374151;stroke:none;marker-end:none"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for arrow in ARROWS:
        lines += drawn_arrow(arrow)
    for box in BOXES:
        lines += drawn_box(box)
    return "\n".join([*lines, "</svg>", ""])


def named_files() -> list[str]:
    """Every file that an arrow names, from the repository."""
    names = []
    for arrow in ARROWS:
        folder = ""
        for name in arrow.files:
            if name.endswith("/"):
                folder = name
            else:
                names.append(folder + name if folder else name)
    return names


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
