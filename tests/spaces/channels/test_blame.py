from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spaces.channels import check
from spaces.channels.check import find_checked_groups

WIDTH = 8


class Tail(nn.Module):
    """Two convolutions, code in between that may fix the channels of the first, and a head."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.between = between
        self.scale = nn.Parameter(torch.randn(8))
        self.flat = nn.Flatten(0, 1)
        self.unflat = nn.Unflatten(0, (1, 8))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.between(self, self.first(x))).mean((2, 3)))


def refuse(module: nn.Module, x: Tensor) -> Tensor:
    if x.shape[1] != 8:
        raise ValueError("expected 8 channels")
    return x


def branch(module: nn.Module, x: Tensor) -> Tensor:
    return x.relu() if x.shape[1] == 8 else x.sigmoid().tanh()


def halves(module: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([part.relu() for part in torch.split(x, WIDTH // 2, 1)], 1)


FIXED = {
    "view": lambda module, x: x.view(-1, WIDTH, 8, 8),
    "reshape": lambda module, x: x.reshape(-1, 8, 64).unflatten(2, (8, 8)),
    "scale": lambda module, x: x * module.scale.view(WIDTH, 1, 1),
    "split": halves,
    "expand": lambda module, x: x.mean((2, 3), keepdim=True).expand(-1, 8, 8, 8),
    "raise": refuse,
    "branch": branch,
    "module": lambda module, x: module.unflat(module.flat(x)),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_code_that_fixes_channels_is_named_and_only_these_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    doubles: list[nn.Module] = []
    monkeypatch.setattr(check, "output_difference", lambda *args: doubles.append(args[0]))
    groups = find_checked_groups(Tail(FIXED[name]), torch.randn(1, 3, 8, 8))
    assert [group.name for group in groups.groups] == ["second"]
    reason = next(group.reason for group in groups.frozen if group.name == "first")
    assert "unflat" in reason if name == "module" else "in test_blame.py:" in reason
    assert not doubles


FOLLOWING = {
    "view": lambda module, x: x.view(len(x), -1, 8, 8),
    "scale": lambda module, x: x * module.scale.view(-1, 1, 1),
    "split": lambda module, x: torch.cat([part.relu() for part in torch.split(x, x.shape[1] // 2, 1)], 1),
    "size": lambda module, x: x.mean((2, 3), keepdim=True).expand(x.size()),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_code_that_follows_its_channels_is_not_blamed(name: str) -> None:
    assert [group.name for group in find_checked_groups(Tail(FOLLOWING[name]), torch.randn(1, 3, 8, 8)).groups] == [
        "first",
        "second",
    ]


def test_repeated_code_is_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[object] = []
    found = check.find_faults
    monkeypatch.setattr(check, "find_faults", lambda *args: passes.append(args) or found(*args))
    parts = [nn.Sequential(nn.Conv2d(8, 8, 1), nn.Unflatten(1, (4, 2)), nn.Flatten(1, 2)) for _ in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *parts, nn.Flatten(), nn.Linear(512, 2))
    groups = find_checked_groups(model, torch.randn(1, 3, 8, 8))
    assert len([group for group in groups.frozen if "write -1" in group.reason]) == 6
    assert len(passes) == 2


class Lent(nn.Module):
    """Code that takes the number of one layer's channels for that of another, which in the dense network are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 7, 1)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        channels = round(float(x.shape[1]))
        x = self.second(x)
        return self.head(self.other(x.reshape(len(x), channels, -1).reshape(len(x), channels, 5, 5)).mean((2, 3)))


def test_the_group_that_lends_its_number_of_channels_to_another_stays_with_it() -> None:
    groups = find_checked_groups(Lent(), torch.randn(1, 3, 5, 5))
    assert [group.name for group in groups.groups] == ["other"]
    assert all("in test_blame.py:" in group.reason for group in groups.frozen if group.name in ("first", "second"))
