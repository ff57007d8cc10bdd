"""The judges of generated videos: each against a closed form, and against damage that it must see."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.data.shape_drawing import SHAPES, render
from pipelines.data.synthetic import LOOKS, draw_scene, plain_paint, textured_paint
from pipelines.metrics.blockiness import blockiness, border_ratio
from pipelines.metrics.clip_set import ClipSet
from pipelines.metrics.precision_recall import precision_recall, radii
from pipelines.metrics.scene_fidelity import accepted
from pipelines.metrics.two_sample import two_sample_accuracy
from pipelines.parts.evaluate.scene_reader import read_scenes


def drawn(count: int, first_seed: int = 0) -> tuple[Tensor, list[tuple[str, str, int]]]:
    """Clips (n, 17, 64, 64, 3) uint8 of the plain look, and shape, motion and background of each."""
    clips, shown = [], []
    for seed in range(first_seed, first_seed + count):
        random, motion = np.random.default_rng(seed), LOOKS["plain"].motions[seed % 8]
        scene, background = draw_scene(LOOKS["plain"], random), int(random.integers(4))
        clips.append(torch.from_numpy(render(scene, motion, 17, plain_paint(background, scene.shape, 64))))
        shown.append((scene.shape, motion, background))
    return torch.stack(clips), shown


def mosaic(clips: Tensor, share: float) -> Tensor:
    """8 x 8 cells of other clips in place of a share of the own ones."""
    generator, mixed = torch.Generator().manual_seed(0), clips.clone()
    for i in range(len(clips)):
        for row in range(0, 64, 8):
            for column in range(0, 64, 8):
                if torch.rand(1, generator=generator) < share:
                    other = int(torch.randint(len(clips), (1,), generator=generator))
                    rows, columns = slice(row, row + 8), slice(column, column + 8)
                    mixed[i, :, rows, columns] = clips[other, :, rows, columns]
    return mixed


def with_seams(clips: Tensor, levels: int) -> Tensor:
    """A constant of its own on every 8 x 8 cell."""
    offsets = torch.randint(-levels, levels + 1, (8, 8), generator=torch.Generator().manual_seed(0))
    grid = offsets.repeat_interleave(8, 0).repeat_interleave(8, 1)[None, None, :, :, None]
    return (clips.int() + grid).clamp(0, 255).byte()


def test_scenes_are_read_as_they_were_drawn() -> None:
    clips, shown = drawn(16)
    found = read_scenes(clips)
    names = list(SHAPES)
    columns = (found.places.shape.tolist(), found.motions, found.background.tolist())
    read = [(names[shape], *rest) for shape, *rest in zip(*columns, strict=True)]
    assert read == shown
    assert found.fidelity.min() > 30


def test_a_mosaic_is_no_scene_and_noise_hides_none() -> None:
    clips, shown = drawn(8)
    noise = 12 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    noisy = read_scenes((clips.float() + noise).round().clamp(0, 255).byte())
    assert noisy.motions == [motion for _, motion, _ in shown]
    assert noisy.fidelity.median() < read_scenes(clips).fidelity.median() - 15
    assert read_scenes(mosaic(clips, 0.25)).fidelity.median() < noisy.fidelity.median() - 3


def test_accepted_is_the_share_above_the_level_of_real_clips() -> None:
    real = torch.arange(100.0)
    share, level = accepted(torch.tensor([3.0, 4.0, 5.0, 90.0]), real)
    assert level == 4.0 and share == 0.75
    assert accepted(real, real)[0] >= 0.95


@pytest.mark.parametrize("count", [20, 1500])
def test_precision_and_recall_of_the_same_set_are_one_and_of_a_far_one_zero(count: int) -> None:
    features = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    assert precision_recall(features, features) == (1.0, 1.0)
    assert precision_recall(features, features + 1000) == (0.0, 0.0)


def test_recall_sees_what_is_never_made() -> None:
    """Two far clusters, of which only one is made: every sample is real, half of reality is missing."""
    cluster = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    precision, recall = precision_recall(torch.cat([cluster, cluster + 100]), cluster)
    assert precision == 1.0 and recall == 0.5


def test_radii_are_distances_to_the_third_neighbour() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    assert radii(line).flatten().tolist() == [6, 5, 3, 5, 9]
    assert radii(line[:2]).tolist() == [1, 1]


def test_blockiness_orders_seams_of_three_strengths() -> None:
    look, random = LOOKS["textured"], np.random.default_rng(0)
    paint = textured_paint(random, 64)
    clips = torch.stack([torch.from_numpy(render(draw_scene(look, random), "Grow", 17, paint)) for _ in range(8)])
    ratios = [border_ratio(ClipSet.of(with_seams(clips, levels) if levels else clips)) for levels in (0, 4, 8, 16)]
    assert ratios == sorted(ratios) and ratios[0] == pytest.approx(1, abs=0.1) and ratios[-1] > 2
    assert blockiness(ClipSet.of(clips), ClipSet.of(clips)) == 1
    assert blockiness(ClipSet.of(clips * 0), ClipSet.of(clips)) is None


def test_two_sample_accuracy_of_one_distribution_is_chance_and_of_mosaics_high() -> None:
    clips, _ = drawn(64)
    same = two_sample_accuracy(clips[:32], clips[32:], 0, 60)
    other = two_sample_accuracy(mosaic(clips[:32], 0.5), clips[32:], 0, 60)
    assert same < 0.75 and other > 0.85
    with pytest.raises(ValueError, match="equally many clips"):
        two_sample_accuracy(clips[:3], clips[:3], 0, 1)


def test_an_empty_background_is_no_scene() -> None:
    """Nearly right everywhere, but there is nothing."""
    clips, _ = drawn(8)
    empty = clips.clone()
    for clip, (shape, _, background) in zip(empty, drawn(8)[1], strict=True):
        clip[:] = torch.from_numpy(plain_paint(background, shape, 64).background * 255).round().byte()
    found = read_scenes(empty)
    assert found.fidelity.max() < 1, found.fidelity
