"""Compiled blocks: the same numbers under the same names, and one sentence where there is no compiler."""

import os
import shutil

import pytest
import torch
from tiny_latte import DECOUPLED, random_latents, tiny_latte

from latte.blocks import LatteBlock
from pipelines.run.compilation import compile_blocks
from vae.blocks import BlockStack, ResidualBlock


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@torch.no_grad()
def test_compiled_blocks_change_nothing():
    torch.manual_seed(0)
    stack, x = BlockStack(4, depth=2), torch.randn(1, 3, 4, 4, 4)
    names, (before, _) = list(stack.state_dict()), stack(x)
    compile_blocks(stack, ResidualBlock)
    after, past = stack(x)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert len(past) == 2 and list(stack.state_dict()) == names


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_compiled_block_of_latte_changes_nothing():
    model = tiny_latte(awake=True, depth=1, attention="factorised", positions="rope")
    streams, time, labels = model.layout.pack(random_latents(DECOUPLED, 2)), torch.tensor([100.0, 900.0]), None
    before = model(streams, time, labels)
    compile_blocks(model, LatteBlock)
    after = model(streams, time, labels)
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-4, rtol=1e-3)


def test_a_graph_is_made_for_every_shape(monkeypatch):
    """A general one, which torch makes by itself once shapes differ, would serve all later batches, slower."""
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: asked.append(options))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    compile_blocks(BlockStack(4, depth=2), ResidualBlock)
    assert asked == [{"dynamic": False}] * 2


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"C\+\+ compiler.*g\+\+"):
        compile_blocks(BlockStack(4, depth=1), ResidualBlock)
