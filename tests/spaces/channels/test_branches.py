"""Code that the example does not run is noticed, and the module named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.check import find_checked_groups
from spaces.errors import NetworkWarning

INPUTS = torch.randn(1, 3, 8, 8)


class Part(nn.Module):
    """Runs other code where ``other`` says so."""

    def __init__(self, other: Callable[[nn.Module, Tensor], bool]) -> None:
        super().__init__()
        self.other, self.gain, self.extra = other, nn.Parameter(torch.ones(6)), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.other(self, x):
            return self.extra(x)
        return x * self.gain.view(-1, 1, 1)


class Drop(nn.Module):
    """Stochastic depth, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.5).div_(0.5)


class CountingNorm(nn.BatchNorm2d):
    """A subclass with a forward of its own, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        batch = self.training or self.running_mean is None
        return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, batch, 0.1, self.eps))


def network(part: nn.Module) -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), part, nn.Dropout(), head)


BRANCHES: dict[str, tuple[Callable[[nn.Module, Tensor], bool], str]] = {
    "batch": (lambda part, x: len(x) > 1, "for a batch of two samples"),
    "training": (lambda part, x: part.training, "in training"),
    "size": (lambda part, x: x.shape[-1] > 6, r"for inputs of shape \(1, 3, 16, 16\)"),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_was_not_taken_is_told(name: str) -> None:
    other, words = BRANCHES[name]
    line = r"3 \(at `return self.extra\(x\)` in test_branches.py:\d+\): other code runs " + words
    with pytest.warns(NetworkWarning, match=line) as told:
        find_checked_groups(network(Part(other)), INPUTS)
    assert len(told) == 1


@pytest.mark.parametrize(
    "part", [nn.Identity(), Drop(), nn.Conv2d(6, 6, 1), CountingNorm(6)], ids=["none", "noise", "layer", "norm"]
)
def test_dropout_batch_norm_and_stochastic_depth_are_no_branches(part: nn.Module) -> None:
    find_checked_groups(network(part), INPUTS)


def test_the_head_that_only_training_runs_is_named_once() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
            self.auxiliary = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU())

        def forward(self, x: Tensor) -> object:
            x = F.relu(self.first(x))
            y = self.head(x.mean((2, 3)))
            return (y, self.auxiliary(x)) if self.training else y

    with pytest.warns(NetworkWarning, match=r"^auxiliary \(at .*: other code runs in training"):
        find_checked_groups(Auxiliary().eval(), INPUTS)
