"""The causal convolution against torch's own, and chunk by chunk against the whole."""

import torch
import torch.nn.functional as F
from einops import rearrange

from vae.blocks import BlockStack, CausalDepthwiseConv


def test_equals_a_padded_conv3d():
    torch.manual_seed(0)
    convolution = CausalDepthwiseConv(5)
    x = torch.randn(2, 6, 4, 3, 5)
    ours, _ = convolution(x)
    padded = F.pad(rearrange(x, "b t h w c -> b c t h w"), (1, 1, 1, 1, 2, 0))
    theirs = F.conv3d(padded, convolution.weight, convolution.bias, groups=5)
    torch.testing.assert_close(ours, rearrange(theirs, "b c t h w -> b t h w c"), atol=1e-5, rtol=1e-5)


def test_without_time_it_is_a_conv2d():
    torch.manual_seed(0)
    convolution = CausalDepthwiseConv(4, temporal=False)
    x = torch.randn(2, 1, 5, 4, 4)
    ours, past = convolution(x)
    images = rearrange(x, "b 1 h w c -> b c h w")
    theirs = F.conv2d(images, convolution.weight.squeeze(2), convolution.bias, padding=1, groups=4)
    torch.testing.assert_close(ours, rearrange(theirs, "b c h w -> b 1 h w c"))
    assert past is None


def test_chunks_of_any_size_equal_the_whole():
    torch.manual_seed(0)
    stack, x = BlockStack(6, depth=3), torch.randn(2, 7, 4, 4, 6)
    whole, _ = stack(x)
    for sizes in ([1, 6], [3, 4], [1] * 7, [5, 1, 1]):
        past, chunks = None, []
        for chunk in x.split(sizes, dim=1):
            out, past = stack(chunk, past)
            chunks.append(out)
        torch.testing.assert_close(torch.cat(chunks, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_later_frames_do_not_reach_earlier_ones():
    torch.manual_seed(0)
    stack, x = BlockStack(4, depth=2), torch.randn(1, 5, 4, 4, 4)
    changed = x.clone()
    changed[:, 3:] += 1
    before, after = stack(x)[0], stack(changed)[0]
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])
