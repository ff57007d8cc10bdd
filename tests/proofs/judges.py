"""What tells how good generated videos are, for the proofs: classifiers that know real clips, and the real clips."""

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from pipelines.evaluate import classifier_clips, decode_clips, held_out_clips
from pipelines.experiment import Experiment
from pipelines.metrics import class_accuracy
from pipelines.metrics.diversity import diversity, nearest_distances
from pipelines.metrics.frechet import FeatureStatistics, frechet_distance
from pipelines.metrics.i3d_weights import load_i3d
from pipelines.prepare_data import open_index


@dataclass(frozen=True)
class Judges:
    """Classifiers trained on real clips; training and held-out clips that went through the autoencoder."""

    classifiers: list[class_accuracy.VideoClassifier]
    training: Tensor  # (n, t, h, w, 3) uint8
    real: Tensor
    real_labels: Tensor

    @staticmethod
    def fit(config: Experiment) -> "Judges":
        """From the run's clips, cache and autoencoder."""
        device, index = torch.device("cpu"), open_index(config)
        clips, labels = classifier_clips(config, index, device)
        classifiers = [
            class_accuracy.fit(clips, labels, len(index.classes), seed, config.evaluate.classifier_steps)
            for seed in range(config.evaluate.classifier_seeds)
        ]
        real, real_labels = held_out_clips(config, index)
        # the second half of the clips went through the autoencoder
        return Judges(classifiers, clips[len(clips) // 2 :], decode_clips(real, config, device), real_labels)

    def accuracy(self, videos: Tensor, labels: Tensor) -> float:
        """Share of videos (n, t, h, w, 3) uint8 with the class they should have, (n,): mean over the classifiers."""
        return fmean(class_accuracy.accuracy(classifier, videos, labels) for classifier in self.classifiers)

    def controls(self) -> dict[str, float]:
        """The scores of held-out real clips."""
        return {
            "class_accuracy_real": self.accuracy(self.real, self.real_labels),
            "nearest_training_clip_real": float(nearest_distances(self.real, self.training).mean()),
        }

    def scores(self, videos: Tensor, labels: Tensor) -> dict[str, float]:
        """What takes longer than the accuracy: distance to the nearest training clip, diversity, proxy_fvd16."""
        statistics = [features(clips) for clips in (self.real, videos)]
        return {
            "nearest_training_clip": float(nearest_distances(videos, self.training).mean()),
            "diversity": diversity(videos, labels, self.real, self.real_labels)[0],
            "proxy_fvd16": frechet_distance(*statistics),
        }


def features(videos: Tensor) -> FeatureStatistics:
    """Statistics of the features of the first 16 frames, by the network of proxy_fvd16 in bf16."""
    return FeatureStatistics.of(load_i3d("", precision="bf16").features(videos[:, :16]))
