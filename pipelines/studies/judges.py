"""What tells how good generated videos are, for the proofs: classifiers that know real clips, and the real clips."""

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from pipelines.data.clip_dataset import FixedClips
from pipelines.data.video_file import to_float, to_uint8
from pipelines.inputs.cache import fixed_clips, open_cache
from pipelines.inputs.experiment import Experiment
from pipelines.inputs.index import open_index
from pipelines.inputs.models import autoencoder_path
from pipelines.inputs.scoring_networks import open_extractor
from pipelines.metrics import class_accuracy
from pipelines.metrics.clip_set import ClipSet, evenly_spaced
from pipelines.metrics.diversity import diversity, nearest_distances
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import FeatureExtractor
from pipelines.metrics.weight_files import find_weights
from vae.registry import load_autoencoder

BATCH, FVD_FRAMES = 16, 16


@dataclass(frozen=True)
class Judges:
    """Classifiers trained on real clips; training and held-out clips, as they are and decoded; I3D where it is."""

    classifiers: list[class_accuracy.VideoClassifier]
    training: Tensor  # (n, t, h, w, 3) uint8, decoded
    real: Tensor  # of held-out files, decoded
    real_labels: Tensor
    plain: tuple[Tensor, Tensor]  # both, not decoded
    extractor: FeatureExtractor | None

    @staticmethod
    def fit(config: Experiment) -> "Judges":
        """From the run's clips, cache and autoencoder."""
        index, options = open_index(config), config.evaluate
        cache, clips = open_cache(config, index), fixed_clips(config, index, "train")
        vae = load_autoencoder(autoencoder_path(config))
        positions = cache.split("train")
        chosen = evenly_spaced(len(positions), options.classifier_clips)
        plain = torch.stack([to_uint8(clips[i]["video"]) for i in chosen])
        held_out, real_labels = held_out_clips(config)
        cached = [positions[i] for i in chosen]
        with torch.no_grad():
            batches = [cached[start : start + BATCH] for start in range(0, len(cached), BATCH)]
            training = torch.cat([to_uint8(vae.decode(cache.latents(batch, whiten=False))) for batch in batches])
            real = torch.cat([to_uint8(vae.reconstruct(to_float(part))) for part in held_out.split(BATCH)])
        labels = cache.labels[cached]
        classifiers = [
            class_accuracy.fit(
                torch.cat([plain, training]), labels.repeat(2), len(index.classes), seed, options.classifier_steps
            )
            for seed in range(options.classifier_seeds)
        ]
        extractor = open_extractor(config) if find_weights(config.weights.folder, "i3d") else None
        return Judges(classifiers, training, real, real_labels, (plain, held_out), extractor)

    def accuracy(self, videos: Tensor, labels: Tensor) -> float:
        """Share of videos (n, t, h, w, 3) uint8 with the class they should have, (n,): mean over the classifiers."""
        return fmean(class_accuracy.accuracy(classifier, videos, labels) for classifier in self.classifiers)

    def controls(self) -> dict[str, float]:
        """The scores of held-out real clips."""
        return {
            "class_accuracy_real": self.accuracy(self.real, self.real_labels),
            "nearest_training_clip_real": float(nearest_distances(self.real, self.training).mean()),
        }

    def scores(self, videos: Tensor, labels: Tensor) -> dict[str, float | None]:
        """What takes longer than the accuracy: distance to the nearest training clip, diversity, FVD with its floor."""
        return {
            "nearest_training_clip": float(nearest_distances(videos, self.training).mean()),
            "diversity": diversity(ClipSet.of(videos, labels), ClipSet.of(self.real, self.real_labels)),
            **self.fvd(videos),
        }

    def fvd(self, videos: Tensor) -> dict[str, float | None]:
        """FVD16 of videos to held-out clips, and that of training clips to them, which no samples can be under.

        Of equally many clips each, fvd16_clips; None without I3D. videos: (n, t, h, w, 3) uint8.
        """
        training, held_out = self.plain
        count = min(len(videos), len(training), len(held_out))
        if self.extractor is None or count < 2:
            return dict.fromkeys(("fvd16", "fvd16_floor", "fvd16_clips"))
        sides = [one[evenly_spaced(len(one), count)] for one in (held_out, videos, training)]
        real, fake, other = (FeatureStatistics.of(self.extractor.features(side[:, :FVD_FRAMES])) for side in sides)
        return {
            "fvd16": frechet_distance(real, fake),
            "fvd16_floor": frechet_distance(real, other),
            "fvd16_clips": count,
        }


def held_out_clips(config: Experiment) -> tuple[Tensor, Tensor]:
    """Real clips of the validation split, (n, t, h, w, 3) uint8, and their labels (n,)."""
    clips = FixedClips(open_index(config), config.data, "validation")
    chosen = [clips[i] for i in evenly_spaced(len(clips), config.evaluate.classifier_clips)]
    return torch.stack([to_uint8(clip["video"]) for clip in chosen]), torch.tensor([clip["label"] for clip in chosen])
