from __future__ import annotations

import torch
from torch import Tensor, nn

from spaces.channels import check
from spaces.channels.check import find_checked_groups


class Fixed(nn.Module):
    """A part whose code fixes the number of channels of its projection."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into(x).view(len(x), 3, 4).transpose(1, 2).reshape(len(x), 12))


class Network(nn.Module):
    """Two fixed parts and two free ones, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Fixed(), Fixed()
        self.free, self.wide = nn.Linear(6, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.free(self.second(self.first(x))).relu()).relu())


def test_a_failure_that_nothing_else_finds_freezes_the_groups_of_the_failing_module_alone(monkeypatch) -> None:
    monkeypatch.setattr(check, "_followed", lambda model, traced, inputs, forward: traced.groups)
    monkeypatch.setattr(check, "differing_groups", lambda *args: {})
    groups = find_checked_groups(Network(), torch.randn(1, 6))
    assert {group.name for group in groups.groups} >= {"free", "wide"}
    assert not {group.name for group in groups.groups} & {"first.into", "second.into"}
