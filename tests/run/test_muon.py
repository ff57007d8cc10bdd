"""Muon beside AdamW as one optimiser: what each updates, learning rates, moments through a resume, refusals."""

import pytest
import torch
from torch import nn

from pipelines.run.muon import Muon


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 1))


def muon_for(model: nn.Sequential, lr: float = 0.01) -> Muon:
    hidden = [model[0].weight]
    others = [model[0].bias, *model[2].parameters()]
    groups = [{"params": hidden, "lr_scale": 1.0, "hidden": True}, {"params": others, "lr_scale": 1.0}]
    return Muon(groups, lr, (0.9, 0.99), 0.0)


def advance(model: nn.Sequential, optimizer: Muon, steps: int, first: int = 0) -> float:
    for step in range(first, first + steps):
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x[:, :1] * x[:, 1:2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_it_learns_and_its_steps_are_orthogonal() -> None:
    model = net()
    optimizer = muon_for(model)
    before = model[0].weight.detach().clone()
    first = advance(model, optimizer, 1)
    singular = torch.linalg.svdvals(model[0].weight.detach() - before)
    assert singular.max() / singular.min() < 2.5  # five Newton-Schulz steps: all directions nearly alike
    assert advance(model, optimizer, 300, 1) < first / 20


def test_the_learning_rate_of_a_group_counts() -> None:
    model = net()
    optimizer = muon_for(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    advance(model, optimizer, 3)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_moments_go_on_where_they_were() -> None:
    unbroken, resumed = net(), net()
    optimizer = muon_for(unbroken)
    advance(unbroken, optimizer, 10)
    first = muon_for(resumed)
    advance(resumed, first, 4)
    second = muon_for(resumed)
    second.load_state_dict(first.state_dict())
    advance(resumed, second, 6, 4)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))
    assert sorted(optimizer.state_dict()["state"]) == [0, 1, 2, 3]


def test_what_is_not_finite_leaves_all_weights() -> None:
    model = net()
    optimizer = muon_for(model)
    optimizer.found_inf = torch.tensor(1.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    advance(model, optimizer, 1)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_model_without_marked_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer is 'muon', which only train_latte has"):
        Muon([{"params": list(net().parameters()), "lr_scale": 1.0}], 0.01, (0.9, 0.99), 0.0)
