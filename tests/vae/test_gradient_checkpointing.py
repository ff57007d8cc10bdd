"""Gradient checkpointing saves memory and nothing else changes: same loss and gradients, in all models that have it."""

import pytest
import torch
from tiny_vae import VARIANTS, clip, tiny_vae, untrained

from vae.objective import LossConfig, reconstruction_objective


def loss_and_gradients(variant, checkpointing):
    model, video = tiny_vae(variant), clip()
    if checkpointing:
        model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing == checkpointing
    stored = 0

    def count(tensor):
        nonlocal stored
        stored += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        coded = model(video, sample=True, generator=[torch.Generator().manual_seed(i) for i in range(2)])
        loss, _ = reconstruction_objective(coded, video, LossConfig(perceptual=0), None, lambda name: [])
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}, stored


@pytest.mark.parametrize("variant", [name for name in VARIANTS if untrained(name)._supports_gradient_checkpointing])
def test_gradients_are_equal_and_less_is_stored(variant):
    loss, gradients, stored = loss_and_gradients(variant, checkpointing=False)
    same_loss, same_gradients, less_stored = loss_and_gradients(variant, checkpointing=True)
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(gradient, same_gradients[name]) for name, gradient in gradients.items())
    assert less_stored < stored


@torch.no_grad()
def test_nothing_is_recomputed_without_gradients():
    model, video = tiny_vae("default"), clip()
    before = model.encode(video).latents
    model.enable_gradient_checkpointing()
    after = model.encode(video).latents
    assert all(torch.equal(before[part], after[part]) for part in before)
