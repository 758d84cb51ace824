"""A loss, schedules and optimizers of a person's own, which tests name by import path."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def squared_error(outputs: Tensor, targets: Tensor, weight: float = 1.0) -> Tensor:
    return weight * (outputs - F.one_hot(targets, outputs.shape[1])).square().sum(1)


def no_tensor(outputs: Tensor, targets: Tensor) -> float:
    return 0.0


def falling(step: int, total_steps: int, power: int = 1) -> float:
    return (1 - step / total_steps) ** power


def negative(step: int, total_steps: int) -> float:
    return -1.0


class Counting(torch.optim.Optimizer):
    """Descent by the signs of gradients whose step shrinks with a count that is a number, and with one of the group."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr, "seen": 0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["seen"] += 1
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                parameter -= group["lr"] * parameter.grad.sign() / (state["count"] + group["seen"])


class Hoarding(Counting):
    """An optimizer with a state that no checkpoint holds."""

    def step(self) -> None:  # type: ignore[override]
        super().step()
        for state in self.state.values():
            state["history"] = [1]
