"""proxy_frechet_classifier: the joint distribution of what a small video classifier sees and of the class asked for.

The classifier is that of class accuracy, trained on the user's own real training clips. Classes stand beside the
features as in the Frechet joint distance (DeVries et al. 2019, arXiv 1907.08175): videos of the wrong class are far off
even when all videos together look right.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.metrics.class_accuracy import VideoClassifier, embed
from pipelines.metrics.declared import ITS_RECORD, LOWER, PROXIES, Metric, declare

NAME = "proxy_frechet_classifier"

declare(
    Metric(
        NAME,
        "PROXY: Fréchet distance to held-out clips in what a small video classifier, trained on the real training "
        "clips, sees of a video, together with the class asked for.",
        LOWER,
        ITS_RECORD,
        PROXIES,
    )
)


def joint_features(classifier: VideoClassifier, video_uint8: Tensor, labels: Tensor) -> Tensor:
    """What is before the classifier's last layer, and the class as a one-hot vector.

    video_uint8: (n, t, h, w, 3) uint8, labels: (n,) -> (n, features + classes).
    ValueError for clips without a class that the classifier knows.
    """
    num_classes = classifier.head.out_features
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{NAME} needs a class in 0..{num_classes - 1} for every clip: score samples that have classes, or set "
            "evaluate.classifier_seeds=0"
        )
    return torch.cat([embed(classifier, video_uint8), F.one_hot(labels.long(), num_classes).float()], dim=1)
