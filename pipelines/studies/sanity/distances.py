"""Every metric's values on damaged clips: {metric: {damage: [[value per strength] per split]}}.

Features are computed once per kind of damage and kept as files, so that the same command goes on.
"""

import json
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.metrics import class_accuracy
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.lpips_distance import LPIPS_BACKBONES, load_lpips, lpips_distance
from pipelines.metrics.proxy_frechet import standardised_distance
from pipelines.metrics.rfvd import reconstruction_distances
from pipelines.run.folder import write_json
from pipelines.studies.sanity.clips import CLASSES, PEOPLE, Clips, person, splits
from pipelines.studies.sanity.damage import DAMAGE, MIX_UP, SETS, STRENGTHS, damaged, mix_up

BATCH = 16
WRONG = "1 - class_accuracy"
Features = Callable[[Tensor], dict[str, Tensor]]  # (b, t, h, w, 3) uint8 -> {metric: (b, d)}
Values = dict[str, dict[str, list[list[float]]]]


def by_features(clips: Clips, folder: Path, sources: Sequence[Features], num_splits: int) -> Values:
    """Of metrics that see no classes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {key: features_of(clips, *key, folder, sources) for key in SETS}
    measured: Values = {}
    for metric in rows["none", 0]:
        values: dict[str, list[list[float]]] = {name: [] for name in DAMAGE}
        for is_real in splits([file for file, _ in clips], num_splits):
            reference = FeatureStatistics.of(rows["none", 0][metric][is_real])
            for name in DAMAGE:
                sets = [rows[(name, s) if s else ("none", 0)][metric][~is_real] for s in STRENGTHS]
                distances = [standardised_distance(reference, FeatureStatistics.of(one))[0] for one in sets]
                values[name].append(distances)
        measured[metric] = values
    return measured


def features_of(clips: Clips, name: str, strength: int, folder: Path, sources: Sequence[Features]) -> dict[str, Tensor]:
    """{metric: (n, d)} of all clips under one damage, computed once."""
    found: dict[str, Tensor] = {}
    for source in sources:
        file = folder / f"{type(source).__name__}-{name}-{strength}.safetensors"
        if not file.exists():
            parts = [source(part) for part in damaged([clip for _, clip in clips], name, strength).split(BATCH)]
            save_file({metric: torch.cat([part[metric] for part in parts]) for metric in parts[0]}, file)
            print(file.stem, file=sys.stderr, flush=True)
        found |= load_file(file)
    return found


def by_classifier(clips: Clips, folder: Path, draws: int, steps: int) -> Values:
    """Of a classifier's errors, which are 1 - accuracy.

    Three sets of people: four to learn from, two real, two damaged; then the last two swapped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict[str, list[list[float]]] = {damage: [] for damage in (*DAMAGE, MIX_UP)}
    labels = torch.tensor([CLASSES.index(file.parent.name) for file, _ in clips])
    video, people = torch.stack([clip for _, clip in clips]), torch.tensor([person(file) for file, _ in clips])
    for seed in range(draws):
        kept = folder / f"classifier-{seed}.json"
        if not kept.exists():
            write_json(kept, classifier_splits(video, labels, people, seed, steps))
            print(kept.name, file=sys.stderr, flush=True)
        for split in json.loads(kept.read_text()):
            for damage, errors in split.items():
                measured[damage].append(errors)
    return {WRONG: measured}


def classifier_splits(
    video: Tensor, labels: Tensor, people: Tensor, seed: int, steps: int
) -> list[dict[str, list[float]]]:
    """[{damage: [value per strength]}] of one draw of people, both ways round.

    video: (n, t, h, w, 3) uint8; labels, people: (n,).
    """
    order = torch.randperm(PEOPLE, generator=torch.Generator().manual_seed(seed))
    learned, *sides = (torch.isin(people, group) for group in order.split([PEOPLE // 2, PEOPLE // 4, PEOPLE // 4]))
    classifier = class_accuracy.fit(video[learned], labels[learned], len(CLASSES), seed, steps)
    found = []
    for _, other in (sides, sides[::-1]):
        values: dict[str, list[float]] = {damage: [] for damage in (*DAMAGE, MIX_UP)}
        for damage, strength in product(values, STRENGTHS):
            shown, asked = video[other], labels[other]
            if damage == MIX_UP:
                asked = mix_up(asked, strength, seed)
            else:
                shown = damaged(list(shown), damage, strength)
            values[damage].append(1 - class_accuracy.accuracy(classifier, shown, asked))
        found.append(values)
    return found


def by_i3d(clips: Clips, folder: Path, num_splits: int, extractor: FeatureExtractor) -> Values:
    """Of what I3D sees, which is slow on a CPU; with random weights the names begin with proxy_.

    fvd16 compares other files, rfvd and rfvd_per_clip the same clips with and without damage.
    """

    class I3DFeatures:
        def __call__(self, video: Tensor) -> dict[str, Tensor]:
            return {"features": extractor.features(video[:, :16])}

    folder.mkdir(parents=True, exist_ok=True)
    rows = {key: features_of(clips, *key, folder, [I3DFeatures()])["features"] for key in SETS}
    between = "proxy_fvd16" if extractor.is_proxy else "fvd16"
    values: Values = {}
    for is_real in splits([file for file, _ in clips], num_splits):
        reference = FeatureStatistics.of(rows["none", 0][is_real])
        for damage in DAMAGE:
            sets = [rows[(damage, s) if s else ("none", 0)][~is_real] for s in STRENGTHS]
            pairs = [reconstruction_distances(sets[0], one, extractor.is_proxy) for one in sets]
            distances = {name: [pair[name] or 0.0 for pair in pairs] for name in pairs[0] if name != "rfvd_clips"}
            distances[between] = [frechet_distance(reference, FeatureStatistics.of(one)) for one in sets]
            for name, by_strength in distances.items():
                values.setdefault(name, {name: [] for name in DAMAGE})[damage].append(by_strength)
    return values


def by_lpips(clips: Clips, folder: Path, weights: Path, num_splits: int) -> Values:
    """Of LPIPS between every clip and its own damaged form."""

    class Lpips:
        def __init__(self) -> None:
            self.networks = {f"lpips_{network}": load_lpips(weights, network) for network in LPIPS_BACKBONES}
            self.place = 0

        def __call__(self, video: Tensor) -> dict[str, Tensor]:
            originals = torch.stack([clip for _, clip in clips[self.place : self.place + len(video)]])
            self.place = (self.place + len(video)) % len(clips)
            return {
                name: rearrange(lpips_distance(network, originals, video), "n -> n 1")
                for name, network in self.networks.items()
            }

    folder.mkdir(parents=True, exist_ok=True)
    rows = {key: features_of(clips, *key, folder, [Lpips()]) for key in SETS}
    values: Values = {name: {damage: [] for damage in DAMAGE} for name in rows["none", 0]}
    for is_real in splits([file for file, _ in clips], num_splits):
        for name, by_damage in values.items():
            for damage in DAMAGE:
                sets = [rows[(damage, s) if s else ("none", 0)][name][~is_real] for s in STRENGTHS]
                by_damage[damage].append([float(distances.mean()) for distances in sets])
    return values
