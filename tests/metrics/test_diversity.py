"""Diversity is 1 for a faithful generator and 0 for one that repeats itself."""

import pytest
import torch

from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.diversity import diversity, mean_pairwise_distance, nearest_distances


def clips(seed: int, num_clips: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (num_clips, 3, 4, 4, 3), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)  # (n, 3, 32, 32, 3)


LABELS = torch.tensor([0] * 6 + [1] * 6)


def test_distance_of_two_flat_clips_is_their_difference() -> None:
    pair = torch.stack([torch.full((2, 16, 16, 3), 51), torch.full((2, 16, 16, 3), 102)]).to(torch.uint8)
    assert mean_pairwise_distance(pair) == pytest.approx(0.2, abs=1e-6)


def labelled(video_uint8: torch.Tensor, labels: torch.Tensor = LABELS) -> ClipSet:
    return ClipSet.of(video_uint8, labels)


def test_faithful_collapsed_and_noisily_collapsed_generators() -> None:
    real = clips(0, 12)
    assert diversity(labelled(real), labelled(real)) == pytest.approx(1.0)
    assert diversity(labelled(clips(1, 12)), labelled(real)) == pytest.approx(1.0, abs=0.15)
    collapsed = torch.cat([real[:1].expand(6, -1, -1, -1, -1), real[6:7].expand(6, -1, -1, -1, -1)])
    assert diversity(labelled(collapsed), labelled(real)) == 0
    noise = torch.randn(collapsed.shape, generator=torch.Generator().manual_seed(2)) * 10
    noisy = (collapsed.float() + noise).clamp(0, 255).to(torch.uint8)
    assert diversity(labelled(noisy), labelled(real)) < 0.05


def test_one_collapsed_class_of_two_halves_the_score() -> None:
    real = clips(0, 12)
    half = torch.cat([real[:6], real[6:7].expand(6, -1, -1, -1, -1)])
    assert diversity(labelled(half), labelled(real)) == pytest.approx(0.5)


def test_videos_without_labels_are_one_class_and_the_shorter_side_counts() -> None:
    real = clips(0, 12)
    longer = torch.cat([real, real], dim=1)
    assert diversity(ClipSet.of(longer), labelled(real)) == pytest.approx(1.0)


def test_without_a_pair_there_is_none_and_identical_real_clips_are_refused() -> None:
    real = clips(0, 12)
    assert diversity(labelled(real[:1], LABELS[:1]), labelled(real)) is None
    with pytest.raises(ValueError, match="identical"):
        diversity(labelled(real), labelled(real[:1].expand(12, -1, -1, -1, -1)))


def test_nearest_distance_tells_copies_from_new_clips() -> None:
    training, new = clips(0, 12), clips(1, 3)
    assert torch.equal(nearest_distances(training[[7, 2]], training), torch.zeros(2))
    far = nearest_distances(new, training)
    cells = [c.float().reshape(len(c), 3, 4, 8, 4, 8, 3).mean(dim=(3, 5)).flatten(1) / 255 for c in (new, training)]
    for i in range(3):
        expected = min((cells[0][i] - other).square().mean().sqrt() for other in cells[1])
        assert far[i].item() == pytest.approx(expected.item(), abs=1e-6)
