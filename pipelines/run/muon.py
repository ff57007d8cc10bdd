"""Muon for the hidden matrices of a model, AdamW for all else, as one optimiser (Jordan et al. 2024; torch's Muon)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Groups with "hidden": True hold matrices that Muon updates; its steps are scaled to be as large as AdamW's, so
    that both take the same learning rate. `found_inf` = 1 leaves all weights as they are, as with torch's fused AdamW.
    """

    found_inf: torch.Tensor | None = None

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        hidden = [group for group in groups if group.get("hidden")]
        if not hidden:
            raise ValueError("optimizer is 'muon', which only train_latte has: choose adamw")
        others = [group for group in groups if not group.get("hidden")]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay, fused=True),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        # what changes a group's learning rate must reach the optimiser that steps by it
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        if self.found_inf is None or not bool(self.found_inf):
            for part in self.parts:
                part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """As of one optimiser: positions count over all groups."""
        state: dict[int, Any] = {}
        for part, first in self._firsts():
            state |= {first + place: moments for place, moments in part.state_dict()["state"].items()}
        return {"state": state, "param_groups": [{"params": []} for _ in self.param_groups]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back the moments that `state_dict` gave; learning rates stay as they are."""
        for part, first in self._firsts():
            count = sum(len(group["params"]) for group in part.param_groups)
            own = {
                place - first: moments
                for place, moments in state_dict["state"].items()
                if first <= place < first + count
            }
            part.load_state_dict({"state": own, "param_groups": part.state_dict()["param_groups"]})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def _firsts(self) -> list[tuple[torch.optim.Optimizer, int]]:
        """Each optimiser with the position of its first parameter."""
        first = sum(len(group["params"]) for group in self.parts[0].param_groups)
        return [(self.parts[0], 0), (self.parts[1], first)]
