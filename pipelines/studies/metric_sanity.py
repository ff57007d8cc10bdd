"""Do the metrics rank damage in the right order? On real clips; writes docs/results/metric_sanity.json and .md.

python pipelines/studies/metric_sanity.py CLIPS RUN,RUN,... WORK [i3d]

CLIPS: a folder with actions64/, ucf101/ and clips/ (videos). RUN: folders of runs whose autoencoders were trained on
such clips, one of each kind. WORK: where features are kept; the same command goes on. i3d: measure the distances of
I3D with random weights too, which are slow on a CPU.

Files are drawn apart into "real" and "damaged" ones, several times. The damaged ones are blurred, made noisy, shuffled
in time, frozen, or given the wrong class, each in three strengths; every distance should grow with the strength.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import av
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file

from pipelines.data.clip_dataset import crop, resize_short_side
from pipelines.data.video_file import read_video
from pipelines.inputs.models import resolve_model
from pipelines.metrics import class_accuracy
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import load_i3d
from pipelines.metrics.proxy_classifier import NAME as CLASSIFIER
from pipelines.metrics.proxy_classifier import joint_features
from pipelines.metrics.proxy_flow import FlowFeatures
from pipelines.metrics.proxy_frechet import standardised_distance
from pipelines.metrics.proxy_latents import LatentFeatures, latent_deviations
from pipelines.metrics.proxy_temporal import TemporalFeatures
from pipelines.metrics.rfvd import reconstruction_distances
from pipelines.run.folder import git_commit, write_json, write_text
from pipelines.run.hashes import hash_folder
from vae.registry import load_autoencoder
from vae.scale_space_flow import warp

ROOT = Path(__file__).resolve().parents[2]
NUM_FRAMES, SIZE, CLIPS_PER_FILE, LAST_FRAME = 17, 64, 2, 600
NUM_SPLITS, PEOPLE, CLASSES = 16, 8, ("Bend", "JumpingJack", "WaveOneHand", "WaveTwoHands")
CLASSIFIER_CLIPS, CLASSIFIER_STEPS, CLASSIFIER_DRAWS = 6, 200, 6
STRENGTHS = (0, 1, 2, 3)
OF_I3D = ("proxy_fvd16", "proxy_rfvd", "proxy_rfvd_per_clip")

# ------------------------------------------------------------------ damage; video: (t, h, w, 3) uint8


def blur(video, strength, seed):
    """Gaussian blur of 1, 2 and 4 pixels (of 64)."""
    sigma = (1.0, 2.0, 4.0)[strength - 1]
    radius = round(4 * sigma)
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    frames = F.pad(rearrange(video, "t h w c -> t c h w").float(), (radius,) * 4, mode="replicate")
    frames = F.conv2d(frames, taps.reshape(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    frames = F.conv2d(frames, taps.reshape(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    return rearrange(frames, "t c h w -> t h w c").round().clamp(0, 255).to(torch.uint8)


def noise(video, strength, seed):
    """White noise of 8, 16 and 32 levels (of 255)."""
    generator = torch.Generator().manual_seed(seed)
    spread = (8.0, 16.0, 32.0)[strength - 1]
    noisy = video.float() + spread * torch.randn(video.shape, generator=generator)
    return noisy.round().clamp(0, 255).to(torch.uint8)


def shuffle(video, strength, seed):
    """Frames in random order within windows of 2, of 4, and of the whole clip."""
    window, generator, order = (2, 4, len(video))[strength - 1], random.Random(seed), []
    for start in range(0, len(video), window):
        part = list(range(start, min(start + window, len(video))))
        generator.shuffle(part)
        order += part
    return video[order]


def freeze(video, strength, seed):
    """The clip stands still after 13, 9 and 1 of its 17 frames."""
    last = (12, 8, 0)[strength - 1]
    return video[[min(frame, last) for frame in range(len(video))]]


def mix_up(labels, strength, seed):
    """Another class than the true one for a quarter, half, and all of the clips. labels: (n,)."""
    generator = random.Random(seed)
    chosen = generator.sample(range(len(labels)), round(len(labels) * (0, 0.25, 0.5, 1)[strength]))
    wrong = labels.clone()
    for i in chosen:
        wrong[i] = (labels[i] + generator.randrange(1, len(CLASSES))) % len(CLASSES)
    return wrong


DAMAGE: dict[str, Callable] = {"blur": blur, "noise": noise, "shuffling": shuffle, "freezing": freeze}
MIX_UP = "class mix-ups"
SETS = [("none", 0), *((name, strength) for name in DAMAGE for strength in STRENGTHS[1:])]


def damaged(clips, name, strength):
    """clips: [(t, h, w, 3) uint8] -> (n, t, h, w, 3); every clip has a seed of its own."""
    shown = [DAMAGE[name](clip, strength, seed) if strength else clip for seed, clip in enumerate(clips)]
    return torch.stack(shown)


# ------------------------------------------------------------------ clips


def count_frames(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))


def read_clips(files, per_file):
    """[(file, clip)] of `per_file` clips per file, spread over its first 600 frames."""
    found = []
    for file in files:
        last_start = min(count_frames(file), LAST_FRAME) - NUM_FRAMES
        starts = {int(last_start * (i + 0.5) / per_file) for i in range(per_file)} if last_start >= 0 else set()
        for start in sorted(starts):
            frames = resize_short_side(read_video(file, range(start, start + NUM_FRAMES)), SIZE)
            found.append((file, crop(frames, SIZE, 0.5, 0.5).clone()))
    return found


def files_of(folder):
    """Every file of the folder, in order."""
    return sorted(path for path in folder.rglob("*.*") if path.is_file())


def person(file):
    """g01 .. g08 of v_Class_g01_c01.avi as 0 .. 7."""
    return int(file.stem.split("_g")[1][:2]) - 1


def splits(files):
    """For every split, which clips are real: (n,) bool. files: that of every clip.

    Whole files apart, people of actions64 and other files each drawn in halves; every split also with its sides
    swapped, for the halves differ in content, and what this does to small damage has opposite signs in the two.
    """
    others = sorted({file for file in files if "actions64" not in file.parts})
    for seed in range(NUM_SPLITS // 2):
        generator = random.Random(seed)
        people, chosen = generator.sample(range(PEOPLE), PEOPLE // 2), generator.sample(others, len(others) // 2)
        is_real = torch.tensor(
            [person(file) in people if "actions64" in file.parts else file in chosen for file in files]
        )
        yield is_real
        yield ~is_real


# ------------------------------------------------------------------ measurement


def main(clips_folder: Path, runs: list[Path], work: Path, with_i3d: bool) -> None:
    files = [file for name in ("actions64", "ucf101", "clips") for file in files_of(clips_folder / name)]
    clips = read_clips(files, CLIPS_PER_FILE)
    measured = by_features(clips, work / "pixels", [TemporalFeatures()])
    measured |= by_classifier(clips_folder / "actions64", work)
    autoencoders = {}
    for run in runs:
        path = resolve_model(str(run), run, "train_vae")
        autoencoders[json.loads((path / "config.json").read_text())["_class_name"]] = identity = hash_folder(path)
        measured = by_features(clips, work / identity[:12], sources_of(path, identity, clips)) | measured
    if with_i3d:
        measured |= by_i3d(clips, work)
    content = {
        "strengths": {
            name: damage.__doc__.split(". ")[0].rstrip(".") for name, damage in (*DAMAGE.items(), (MIX_UP, mix_up))
        },
        "num_files": len({file for file, _ in clips}),
        "num_clips": len(clips),
        "num_splits": NUM_SPLITS,
        "autoencoders": autoencoders,
        "metrics": {name: judge(values) for name, values in measured.items()},
        "git_commit": git_commit(),
    }
    write_json(ROOT / "docs" / "results" / "metric_sanity.json", content)
    write_text(ROOT / "docs" / "results" / "metric_sanity.md", page(content))
    print(page(content))


def sources_of(path, identity, clips):
    """The features that an autoencoder gives."""
    vae = load_autoencoder(path)
    few = (torch.stack([clip for _, clip in clips[start : start + 16]]) for start in range(0, len(clips), 16))

    def encode(video):
        return vae.encode(video).latents

    deviations = latent_deviations(encode, few, list(vae.latent_shapes((NUM_FRAMES, SIZE, SIZE))))
    flows = [FlowFeatures(module, warp, identity) for module in vae.motion_modules()]
    return [LatentFeatures(encode, deviations, identity), *flows]


def by_features(clips, folder, sources):
    """{metric: {damage: [[value per strength] per split]}} of metrics that see no classes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {key: features_of(clips, *key, folder, sources) for key in SETS}
    measured = {}
    for metric in rows["none", 0]:
        values = {name: [] for name in DAMAGE}
        for is_real in splits([file for file, _ in clips]):
            reference = FeatureStatistics.of(rows["none", 0][metric][is_real])
            for name in DAMAGE:
                sets = [rows[(name, s) if s else ("none", 0)][metric][~is_real] for s in STRENGTHS]
                distances = [standardised_distance(reference, FeatureStatistics.of(one))[0] for one in sets]
                values[name].append(distances)
        measured[metric] = values
    return measured


def features_of(clips, name, strength, folder, sources):
    """{metric: (n, d)} of all clips under one damage, computed once."""
    found = {}
    for source in sources:
        file = folder / f"{type(source).__name__}-{name}-{strength}.safetensors"
        if not file.exists():
            parts = [source(part) for part in damaged([clip for _, clip in clips], name, strength).split(16)]
            save_file({metric: torch.cat([part[metric] for part in parts]) for metric in parts[0]}, file)
            print(file.stem, file=sys.stderr, flush=True)
        found |= load_file(file)
    return found


def by_classifier(folder, work):
    """The same for what a classifier sees, and for its errors, which are 1 - accuracy.

    Three sets of people: four to learn from, two real, two damaged; then the last two swapped.
    """
    measured = {name: {damage: [] for damage in (*DAMAGE, MIX_UP)} for name in (CLASSIFIER, WRONG)}
    clips = read_clips(files_of(folder), CLASSIFIER_CLIPS)
    labels = torch.tensor([CLASSES.index(file.parent.name) for file, _ in clips])
    video, people = torch.stack([clip for _, clip in clips]), torch.tensor([person(file) for file, _ in clips])
    for seed in range(CLASSIFIER_DRAWS):
        kept = work / f"classifier-{seed}.json"
        if not kept.exists():
            write_json(kept, classifier_splits(video, labels, people, seed))
            print(kept.name, file=sys.stderr, flush=True)
        for split in json.loads(kept.read_text()):
            for metric, values in split.items():
                for damage, distances in values.items():
                    measured[metric][damage].append(distances)
    return measured


WRONG = "1 - class_accuracy"


def classifier_splits(video, labels, people, seed):
    """[{metric: {damage: [value per strength]}}] of one draw of people, both ways round."""
    order = torch.randperm(PEOPLE, generator=torch.Generator().manual_seed(seed))
    learned, *sides = (torch.isin(people, group) for group in order.split([PEOPLE // 2, PEOPLE // 4, PEOPLE // 4]))
    classifier = class_accuracy.fit(video[learned], labels[learned], len(CLASSES), seed, CLASSIFIER_STEPS)
    found = []
    for real, other in (sides, sides[::-1]):
        reference = FeatureStatistics.of(joint_features(classifier, video[real], labels[real]))
        values = {name: {damage: [] for damage in (*DAMAGE, MIX_UP)} for name in (CLASSIFIER, WRONG)}
        for damage in (*DAMAGE, MIX_UP):
            for strength in STRENGTHS:
                shown, asked = video[other], labels[other]
                if damage == MIX_UP:
                    asked = mix_up(asked, strength, seed)
                else:
                    shown = damaged(list(shown), damage, strength)
                rows = FeatureStatistics.of(joint_features(classifier, shown, asked))
                values[CLASSIFIER][damage].append(standardised_distance(reference, rows)[0])
                values[WRONG][damage].append(1 - class_accuracy.accuracy(classifier, shown, asked))
        found.append(values)
    return found


def by_i3d(clips, work):
    """The same for what I3D with random weights sees.

    proxy_fvd16 compares other files, proxy_rfvd and proxy_rfvd_per_clip the same clips with and without damage.
    """
    extractor = load_i3d("there-are-none", precision="bf16", batch_size=4)

    class I3DFeatures:
        def __call__(self, video):
            return {"features": extractor.features(video[:, :16])}

    folder = work / "i3d"
    folder.mkdir(parents=True, exist_ok=True)
    rows = {key: features_of(clips, *key, folder, [I3DFeatures()])["features"] for key in SETS}
    values = {name: {damage: [] for damage in DAMAGE} for name in OF_I3D}
    for is_real in splits([file for file, _ in clips]):
        reference = FeatureStatistics.of(rows["none", 0][is_real])
        for damage in DAMAGE:
            sets = [rows[(damage, s) if s else ("none", 0)][~is_real] for s in STRENGTHS]
            pairs = [reconstruction_distances(sets[0], one, is_proxy=True) for one in sets]
            distances = {"proxy_fvd16": [frechet_distance(reference, FeatureStatistics.of(one)) for one in sets]}
            distances |= {name: [pair[name] for pair in pairs] for name in OF_I3D[1:]}
            for name, by_strength in distances.items():
                values[name][damage].append(by_strength)
    return values


# ------------------------------------------------------------------ judgement


def grows(values: Sequence[float]) -> bool:
    """Whether every value is larger than the one before."""
    return all(after > before for before, after in zip(values, values[1:], strict=False))


def judge(by_damage):
    """Means over splits, whether they grow, in how many splits they do, and whether the metric is kept."""
    found = {}
    for damage, splits in by_damage.items():
        mean = [fmean(values) for values in zip(*splits, strict=True)]
        found[damage] = {"mean": mean, "ordered": grows(mean), "splits_ordered": sum(map(grows, splits)) / len(splits)}
    ordered = sum(entry["ordered"] for entry in found.values())
    return {"damage": found, "ordered": ordered, "kept": ordered >= 4}


# ------------------------------------------------------------------ the page


def page(content):
    """docs/results/metric_sanity.md."""
    damages, metrics = [*DAMAGE, MIX_UP], content["metrics"]
    rows = [["metric", *damages, "in order", "kept"]]
    for name, metric in sorted(metrics.items(), key=lambda item: not item[1]["kept"]):
        marks = [mark(metric["damage"].get(damage)) for damage in damages]
        rows.append(
            [f"`{name}`", *marks, f"{metric['ordered']} of 5", "-" if name == WRONG else YES_NO[metric["kept"]]]
        )
    lines = [*HEAD, "", *table(rows), "", *LEGEND, ""]
    lines += [f"- **{name}**: {text}" for name, text in content["strengths"].items()]
    lines += ["", "## Values", ""]
    rows = [["metric", "damage", *(f"strength {strength}" for strength in STRENGTHS), "splits in order"]]
    for name, metric in metrics.items():
        for damage, entry in metric["damage"].items():
            share = f"{100 * entry['splits_ordered']:.0f} %"
            rows.append([f"`{name}`", damage, *(f"{value:.3g}" for value in entry["mean"]), share])
    return "\n".join([*lines, *table(rows), "", *DISCUSSION]) + "\n"


def mark(entry):
    """A cell of the first table: in order or not, and in how many of the splits."""
    if entry is None:
        return "sees no classes"
    return f"{YES_NO[entry['ordered']]} ({100 * entry['splits_ordered']:.0f} %)"


def table(rows):
    """Rows of cells -> lines of Markdown, the first row as its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return [f"| {' | '.join(cells)} |" for cells in lines]


YES_NO = {True: "yes", False: "no"}
HEAD = """# Do the proxy metrics rank damage in the right order?

Figures: [metric_sanity.json](metric_sanity.json), made by

```bash
python pipelines/studies/metric_sanity.py CLIPS RUN,RUN WORK i3d
```

A metric that claims to measure generated videos must at least grow when real videos are damaged more. Real files
(simple actions filmed by a fixed camera, UCF-101, and others) were drawn apart, whole files at a time, into a reference
and a side that was damaged in three strengths. A metric stays in the product when four of the five kinds of damage are
in order: undamaged < 1 < 2 < 3, in the mean over the splits.
""".splitlines()
LEGEND = """In brackets: the share of single splits that are in order by themselves. Half of the files is little: the
two halves differ by what is filmed, and that alone is the distance at strength 0.""".splitlines()
DISCUSSION = """## What follows

- Removed: `proxy_frechet_latents_keyframe` (a keyframe is one frame; it cannot know of shuffling and freezing),
  `..._motion` and `..._video` (an autoencoder without components). With two earlier autoencoders the last two were in
  order, with these they are not: a metric must rank with any. The residual's stays.
- `proxy_fvd16`, `proxy_rfvd` and `proxy_rfvd_per_clip` are of I3D with random weights whose first layer sees change
  only, by features of length 1. With whole random kernels `proxy_fvd16` was blind to time: 2 of 5 in order, frozen
  clips as near as moving ones, because what the two halves show decided alone. The other two compare a clip with its
  own damaged form, so nothing else can differ.
- Only `proxy_frechet_classifier` sees the classes. It needs classes in the data set, and a classifier that has
  learned something: its accuracy on held-out clips stands in its record. Shuffling within two frames is beyond it,
  since it reads every second frame.
- `1 - class_accuracy` is the accuracy that `evaluate` reports, turned round so that it grows with damage; it is no
  distance. With six draws of two people it moves in steps of 2 %, so single splits are often level where the mean is
  in order.
- The flow and temporal distances are the sharp ones: nearly every single split is in order. The residual latents order
  the mean, but with thirty files on a side up to one split in two has the weakest damage out of order, and one in
  four for `proxy_fvd16`: read a small difference in them as none.
- Weaker damage than this (blur of half a pixel, noise of four levels) is below what sixty files can resolve: there
  the order depends on which files fall on which side.
- Half of every split is the same split with its sides swapped. Without that, a side that is sharper by chance turns
  mild blur into an improvement.
- Features were chosen on these clips too: energies of latents as logarithms, latents whitened, a floor under energies
  so that still clips are no outliers, random kernels that see change only, features of length 1. Means of latents over
  a clip, and samples of single positions instead of whole clips, were tried before and ordered less. Other clips may
  order them less well than these.
""".splitlines()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [*map(Path, sys.argv[2].split(","))], Path(sys.argv[3]), with_i3d="i3d" in sys.argv[4:])
