"""The classifier learns motions from few clips, sees nothing in first frames, and draws nothing from global state."""

import pytest
import torch

from pipelines.metrics.class_accuracy import (
    VideoClassifier,
    accuracy,
    augment,
    fit,
    predict,
    repeat_first_frame,
    shrink,
)

DIRECTIONS = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])


def moving_blobs(num_clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs on a torus of 32 pixels that move left, right, up or down by 1.5 pixels a frame, in any colour."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_clips) % 4
    start = torch.rand(num_clips, 1, 2, generator=generator) * 32
    centre = start + 1.5 * torch.arange(9)[None, :, None] * DIRECTIONS[labels][:, None]  # (n, t, 2) x, y
    axis = torch.arange(32.0)
    across = (axis[None, None, None, :] - centre[..., 0, None, None] + 16) % 32 - 16
    down = (axis[None, None, :, None] - centre[..., 1, None, None] + 16) % 32 - 16
    cover = (6 - (across**2 + down**2).sqrt()).clamp(0, 1)[..., None]  # (n, t, h, w, 1)
    colours = torch.rand(2, num_clips, 1, 1, 1, 3, generator=generator) * 255
    return (colours[0] * cover + colours[1] * (1 - cover)).to(torch.uint8), labels


def test_learns_motion_and_nothing_from_first_frames() -> None:
    video, labels = moving_blobs(96, seed=0)
    held_out, held_out_labels = moving_blobs(64, seed=1)
    state = torch.random.get_rng_state()
    classifier = fit(video, labels, num_classes=4, seed=0, steps=120)
    assert torch.equal(state, torch.random.get_rng_state())
    assert accuracy(classifier, held_out, held_out_labels) > 0.9
    control = fit(repeat_first_frame(video), labels, num_classes=4, seed=0, steps=40)
    assert accuracy(control, repeat_first_frame(held_out), held_out_labels) < 0.5


def test_the_seed_decides_the_classifier() -> None:
    video, labels = moving_blobs(8, seed=2)
    first, again, other = (fit(video, labels, 4, seed=seed, steps=2) for seed in (3, 3, 4))
    torch.testing.assert_close(first.head.weight, again.head.weight)
    assert not torch.allclose(first.head.weight, other.head.weight)


def test_accuracy_counts_right_answers() -> None:
    video, _ = moving_blobs(5, seed=3)
    torch.manual_seed(0)
    classifier = VideoClassifier(num_classes=4).eval()
    predicted = predict(classifier, video)
    wrong = predicted.clone()
    wrong[0] = (wrong[0] + 1) % 4
    assert accuracy(classifier, video, predicted) == 1.0
    assert accuracy(classifier, video, wrong) == pytest.approx(0.8)


def test_shrink_and_augment_keep_time_order_and_a_flat_clip_flat() -> None:
    video = torch.arange(10, dtype=torch.uint8)[None, :, None, None, None].expand(1, -1, 48, 64, 3) * 20
    frames = shrink(video)
    assert frames.shape == (1, 3, 5, 32, 32)
    torch.testing.assert_close(frames[0, 0, :, 0, 0], torch.arange(0, 10, 2) * 20 / 127.5 - 1)
    augmented = augment(frames, torch.Generator().manual_seed(0))
    torch.testing.assert_close(augmented, augmented[..., :1, :1].expand_as(augmented))
    assert (augmented.diff(dim=2) > 0).all()


def test_odd_sizes_one_frame_and_every_parameter_gets_a_gradient() -> None:
    classifier = VideoClassifier(num_classes=3)
    assert predict(classifier.eval(), torch.zeros(2, 1, 17, 40, 3, dtype=torch.uint8)).shape == (2,)
    classifier.train()(torch.randn(2, 3, 5, 32, 32)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in classifier.parameters())


def test_missing_labels_are_refused() -> None:
    video, labels = moving_blobs(4, seed=4)
    with pytest.raises(ValueError, match="data with classes"):
        fit(video, torch.full_like(labels, -1), 4, seed=0, steps=1)
