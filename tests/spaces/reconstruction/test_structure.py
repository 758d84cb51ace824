from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from spaces.execution.forward import call
from spaces.reconstruction.passage import Call
from spaces.reconstruction.structure import SharedWeight, solved_weights
from tests.spaces.zoo import example, network


def found(model: nn.Module, inputs: Tensor, sums: bool = True) -> dict[str, SharedWeight]:
    return {one.name: one for one in solved_weights(model.eval(), inputs, call, sums)}


class Block(nn.Module):
    """A residual block whose shortcut is a layer as well."""

    def __init__(self, order: str = "branch first") -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(2, 4, 1, bias=False)
        self.drop = nn.Dropout(0.5)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "shortcut first":
            side = self.shortcut(x)
            return side + self.drop(self.other(self.second(self.norm(self.first(x)).relu())))
        branch = self.drop(self.other(self.second(self.norm(self.first(x)).relu())))
        if self.order == "read twice":
            return branch.mean() + (branch + self.shortcut(x).relu())
        return branch + self.shortcut(x)


@pytest.mark.parametrize(
    ("order", "summed"), [("branch first", "shortcut"), ("shortcut first", "second"), ("read twice", None)]
)
def test_the_later_of_two_summands_is_solved_for_the_sum(order: str, summed: str | None) -> None:
    weights = found(Block(order), torch.randn(1, 2, 5, 5))
    assert {name for name, one in weights.items() if one.sums} == ({summed} if summed else set())
    assert not any(one.sums for one in found(Block(order), torch.randn(1, 2, 5, 5), sums=False).values())


def test_norms_behind_take_shifts() -> None:
    shifts = {name: (one.layers[0].shift, one.layers[0].norm) for name, one in found(Block(), torch.randn(1, 2, 5, 5)).items()}
    assert shifts == {
        "first": ("norm", "norm.running_mean"),
        "second": ("norm", "other.running_mean"),
        "shortcut": ("none", ""),
    }


def test_a_norm_of_two_layers_takes_no_shift() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(2, 3, 1, bias=False), nn.Conv1d(3, 3, 1, bias=False)
            self.norm, self.own = nn.BatchNorm1d(3), nn.InstanceNorm1d(3)
            self.last = nn.Conv1d(3, 3, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.own(self.last(self.norm(self.second(self.norm(self.first(x))))))

    shifts = {name: one.layers[0].shift for name, one in found(Both(), torch.randn(1, 2, 5)).items()}
    assert shifts == {"first": "none", "second": "none", "last": "free"}


def test_a_scaled_branch_is_solved_for_the_sum() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gamma = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gamma * self.layer(x)

    assert found(Scaled(), torch.randn(1, 4, 3))["layer"].sums == {Call("layer", 0)}


def test_tied_weights_are_one_and_those_read_elsewhere_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.one, self.two, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 7, bias=False)
            self.read = nn.Linear(3, 3)
            self.two.weight = self.one.weight
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.two(self.one(self.embedding(x)).relu())
            return self.head(self.read(x) + F.linear(x, self.read.weight))

    weights = found(Tied(), torch.tensor([[1, 2, 3]]))
    assert list(weights) == ["one"]
    assert [layer.name for layer in weights["one"].layers] == ["one", "two"]


def test_layers_that_compute_something_else_are_left_alone() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias)

    computed = parametrizations.weight_norm(nn.Conv2d(2, 2, 1))
    model = nn.Sequential(Standardized(2, 2, 1), computed, nn.Conv2d(2, 2, 1))
    assert list(found(model, torch.randn(1, 2, 3, 3))) == ["2"]


def test_layers_come_in_the_order_of_the_forward_pass() -> None:
    model = network("residual")
    seen: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: seen.append(names[module]))
    order = list(found(model, example("residual")))
    assert order == [name for name in dict.fromkeys(seen) if name in order]
