"""The warp: identity, whole pixels, blur by level, odd sizes, precision."""

import pytest
import torch
from torch.nn import functional

from vae.scale_space_flow import NUM_LEVELS, blur, enlarge_motion, gaussian_kernel, gaussian_volume, warp


def motion(flow_x=0.0, flow_y=0.0, level=0.0, frames=3, height=32, width=48):
    values = torch.tensor([flow_x, flow_y, level]).reshape(1, 3, 1, 1, 1)
    return values.expand(1, 3, frames, height, width).clone()


@pytest.fixture
def image():
    return torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_zero_flow_at_level_zero_is_identity(image):
    warped = warp(image, motion())
    torch.testing.assert_close(warped, image.unsqueeze(2).expand(-1, -1, 3, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("flow_x", "flow_y"), [(3, 0), (-2, 0), (0, 4), (0, -1), (5, -3)])
def test_whole_pixels_are_a_roll_inside_the_border(image, flow_x, flow_y):
    warped = warp(image, motion(flow_x, flow_y, frames=1)).squeeze(2)
    rolled = image.roll((-flow_y, -flow_x), dims=(2, 3))
    inside = (..., slice(5, -5), slice(5, -5))
    torch.testing.assert_close(warped[inside], rolled[inside], atol=1e-4, rtol=0)


def test_a_level_is_a_slice_of_the_volume(image):
    volume = gaussian_volume(image)
    assert volume.shape == (1, 3, NUM_LEVELS + 1, 32, 48)
    for level in range(NUM_LEVELS + 1):
        torch.testing.assert_close(
            warp(image, motion(level=level, frames=1)), volume[:, :, level : level + 1], atol=1e-5, rtol=0
        )
    between = warp(image, motion(level=0.25, frames=1)).squeeze(2)
    torch.testing.assert_close(between, 0.75 * volume[:, :, 0] + 0.25 * volume[:, :, 1], atol=1e-5, rtol=0)


def test_levels_blur_more_and_more():
    """Effective sigmas 1.5, 3.5, 7.2, 14.6, 29.2 pixels, from the second moment of a blurred point."""
    size = 256
    point = torch.zeros(1, 1, size, size)
    point[..., size // 2, size // 2] = 1
    profile = gaussian_volume(point)[0, 0].sum(dim=1)  # (level, x)
    x = torch.arange(size, dtype=torch.float32)
    mean = (profile * x).sum(1) / profile.sum(1)
    sigma = ((profile * (x - mean[:, None]).square()).sum(1) / profile.sum(1)).sqrt()
    torch.testing.assert_close(sigma, torch.tensor([0.0, 1.50, 3.50, 7.22, 14.55, 29.15]), atol=0.01, rtol=0)


def test_blur_equals_the_two_dimensional_kernel(image):
    taps = gaussian_kernel()
    assert len(taps) == 11
    kernel = torch.outer(taps, taps).expand(3, 1, 11, 11)
    padded = functional.pad(image, (5, 5, 5, 5), mode="replicate")
    torch.testing.assert_close(blur(image), functional.conv2d(padded, kernel, groups=3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (17, 31), (16, 16), (5, 64)])
def test_sizes_that_are_no_multiple_of_16(height, width):
    image = torch.rand(1, 3, height, width)
    warped = warp(image, motion(frames=2, height=height, width=width))
    torch.testing.assert_close(warped, image.unsqueeze(2).expand(-1, -1, 2, -1, -1), atol=1e-5, rtol=0)


def test_frames_do_not_mix(image):
    several = torch.cat([motion(1, 0, frames=1), motion(0, 2, 1, frames=1), motion(0.5, 0.5, 2, frames=1)], dim=2)
    alone = torch.cat([warp(image, frame) for frame in several.split(1, dim=2)], dim=2)
    torch.testing.assert_close(warp(image, several), alone)


def test_gradients_and_precision(image):
    flow = motion(0.5, 0.5, 0.5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        warped = warp(image.bfloat16(), flow)
    assert warped.dtype == torch.float32
    warped.square().sum().backward()
    assert all(flow.grad[:, channel].abs().sum() > 0 for channel in range(3))


def test_motion_at_half_the_resolution_is_enlarged():
    image, motion = torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 2, 16, 16)
    motion[:, 0] = 2.0  # pixels of the image, not of the motion
    moved = warp(image, motion)
    torch.testing.assert_close(moved[:, :, 0, :, :-2], image[..., 2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved, warp(image, enlarge_motion(motion, (32, 32))))
