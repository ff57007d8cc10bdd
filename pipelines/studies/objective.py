"""What the perceptual and the adversarial term bring at 64 x 64, at equal training time.

python -m pipelines.studies.objective [study.only=[default,default_lpips]] [study.key=value ...]

The same files, rows and runs as pipelines.studies.vae_ablation, and the embedded shapes, of which
docs/images/objective.png shows what comes back. Needs `python pipelines/weights.py i3d lpips`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.run.config import load_config
from pipelines.studies.ablation.options import AblationStudy
from pipelines.studies.ablation_page import differences, over, scored_on
from pipelines.studies.clip_sets import SETS, link_clips
from pipelines.studies.code_hash import REPOSITORY, hash_code
from pipelines.studies.objective_picture import write_picture
from pipelines.studies.result_rows import Rows, markdown_table
from pipelines.studies.study import RESULTS, Case, Measured, Study, StudySection, main
from pipelines.studies.vae_ablation import CODE, CONFIGS, TINY, build_config, cases_of, measure_rows, rows_of

EMBEDDED = {"trained_on": "embedded shapes", "scored_on": "embedded shapes"}
ROWS = {
    "real": (
        *("default", "default_lpips", "default_gan", "default_lpips_gan", "default_lpips_alex", "default_lpips_weak"),
        *("paper", "paper_lpips", "paper_gan", "paper_lpips_gan"),
    ),
    "embedded": ("default", "default_lpips", "default_gan", "default_lpips_gan", "default_lpips_alex"),
}
PICTURED = {
    "default": "neither",
    "default_lpips": "LPIPS-VGG",
    "default_lpips_alex": "LPIPS-AlexNet",
    "default_gan": "GAN",
    "default_lpips_gan": "LPIPS-VGG and GAN",
}
DEMO = "configs/demo.yaml"
# The embedded shapes have one kind of clip, and one seed each is for the picture.
OF_EMBEDDED = (
    *("run.threads=1", "ablation.groups=[]", "ablation.strides=[1]", "ablation.clips_per_video=1"),
    *("vae.loop.steps=1000", "vae.adaptation.phase_two_step=800", "vae.loop.preview_every=0"),
    *(f"ablation.rows.{row}.seeds=1" for row in ROWS["embedded"]),
)
TINY_ROWS = (
    *("data.resolution=32", "data.shapes.resolution=32", "data.shapes.train_per_class=1"),
    *("data.shapes.validation_per_class=2", "ablation.only=[default,default_gan]"),
    "ablation.rows.default_gan.seeds=1",
)
SCORES = {  # column -> name of the value, and its form
    "PSNR": ("psnr", ".2f"),
    "SSIM": ("ssim", ".4f"),
    "LPIPS (AlexNet)": ("lpips_alex", ".4f"),
    "LPIPS (VGG16)": ("lpips_vgg", ".4f"),
    "rfvd-per-clip": ("rfvd_per_clip", ".1f"),
}


def real_config(options: StudySection, work: Path, only: Sequence[str] = ()) -> AblationStudy:
    """The ablation of vae_ablation, with the rows of the objective."""
    config = build_config(options, work, only or ROWS["real"])
    return made_tiny(config, only) if options.tiny else config


def embedded_config(options: StudySection, work: Path, only: Sequence[str] = ()) -> AblationStudy:
    """The same rows on the embedded shapes, with the demo's autoencoder."""
    files = [str(REPOSITORY / name) for name in (DEMO, CONFIGS[1])]
    words = [f"run.root={work}", "run.name=embedded", f"weights.folder={REPOSITORY / 'weights'}", *OF_EMBEDDED]
    words += ["evaluate.i3d_precision=bf16", f"ablation.only=[{','.join(only or ROWS['embedded'])}]"]
    config = load_config(AblationStudy, [*files, *words], Path(files[0]))
    return made_tiny(config, only) if options.tiny else config


def made_tiny(config: AblationStudy, only: Sequence[str]) -> AblationStudy:
    """An ablation of two rows and next to no steps."""
    rows = [f"ablation.only=[{','.join(only)}]"] if only else []
    return load_config(AblationStudy, [*TINY, *TINY_ROWS, *rows], Path(CONFIGS[0]), base=config)


BUILDERS = {"real": (real_config, SETS), "embedded": (embedded_config, EMBEDDED)}


def cases(options: StudySection) -> list[Case]:
    """A case per row and seed, of real clips and of embedded ones."""
    found = []
    for build, arguments in BUILDERS.values():
        config = build(options, Path(options.work))
        found += cases_of(config, config.ablation.only, arguments)
    return found


def measure(options: StudySection, work: Path, waiting: Sequence[Case]) -> Iterator[Measured]:
    """Train and score, in the folder of vae_ablation, which shares the runs of real clips; then the picture."""
    shared = work.parents[1] / "vae_ablation" / f"{hash_code(CODE)[:8]}{'-tiny' if options.tiny else ''}"
    shared.mkdir(parents=True, exist_ok=True)
    link_clips(options, shared / "clips")
    for name, (build, arguments) in BUILDERS.items():
        own = [case for case in waiting if case.arguments["trained_on"] == arguments["trained_on"]]
        if not own:
            continue
        config = build(options, shared, rows_of(own))
        yield from measure_rows(config, own)
        if name == "embedded" and not options.tiny and Path(options.results).resolve() == (REPOSITORY / RESULTS):
            write_picture(config, PICTURED, REPOSITORY / "docs" / "images" / "objective.png")


def table_of(name: str, rows: Rows) -> str:
    """Mean and standard deviation over seeds of every score of the rows that were scored on `name`."""
    found = scored_on(name, rows)
    if not found:
        return f"Nothing has been scored on {name} yet."
    head = ["row", "seeds", "steps", "s/step", "PSNR minus the row without", *SCORES, "rFVD"]
    lines = []
    for row, by_seed in found.items():
        runs = [run.values for run in by_seed.values()]
        first, plain = runs[0], found.get(row.partition("_")[0], {})
        cells = [row, str(len(runs)), str(first["steps"]), f"{first['seconds_per_step']:.3f}"]
        cells += [over(list(differences(by_seed, plain)), "+.2f")]
        cells += [over([run[value] for run in runs], form) for value, form in SCORES.values()]
        cells += [over([run["sets"]["rfvd"]["value"] for run in runs if "rfvd" in run["sets"]], ".0f")]
        lines.append((list(by_seed.values()), cells))
    return markdown_table(head, lines)


def gains(rows: Rows) -> str:
    """What each term changes against the row without it, seed by seed, on real clips."""
    found = scored_on(SETS["scored_on"], rows)
    lines = []
    for row, by_seed in found.items():
        plain = found.get(row.partition("_")[0], {})
        pairs = [(by_seed[seed].values, plain[seed].values) for seed in by_seed if seed in plain]
        if pairs and row not in ("default", "paper"):
            cells = [over(changes(pairs, value), f"+{form}") for value, form in SCORES.values()]
            lines.append(([*by_seed.values(), *plain.values()], [row, str(len(pairs)), *cells]))
    return markdown_table(["row", "seeds", *SCORES], lines) if lines else "Nothing has been measured yet."


def changes(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], name: str) -> list[float]:
    """Ours minus the other's of a score, where both have it."""
    return [ours[name] - other[name] for ours, other in pairs if None not in (ours[name], other[name])]


STUDY = Study(
    name="objective",
    code=(*CODE, DEMO),
    cases=cases,
    measure=measure,
    tables={
        "real": lambda rows: table_of(SETS["scored_on"], rows),
        "gains": gains,
        "embedded": lambda rows: table_of(EMBEDDED["scored_on"], rows),
    },
)

if __name__ == "__main__":
    main(STUDY)
