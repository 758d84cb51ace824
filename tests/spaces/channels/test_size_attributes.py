"""Numbers of channels that code reads from an attribute of its module are set with the cut."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spaces.channel_mask import ChannelMask
from spaces.channels.subset import subset
from spaces.transformation import apply

INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Part(nn.Module):
    def __init__(self, run: Callable[[Part, Tensor], Tensor]) -> None:
        super().__init__()
        self.dim, self.half, self.heads = 8, 4, 8
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class View(Part):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.dim, 1, 1)


class Flat(Part):
    def forward(self, x: Tensor) -> Tensor:
        n, dim = len(x), self.dim
        return x.reshape(n, dim, -1).reshape(n, dim, 8, 8)


class Split(Part):
    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.split(x, self.half, 1)
        return torch.cat([one.relu(), other], 1)


class Literal(Part):
    """The number stands in the code; an attribute is the same by chance, and counts something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 8, 8, 8) + self.heads


class Twice(Part):
    """The same attribute counts channels and something that stays."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, self.dim, 8, 8) + torch.ones(1, 1, 1, 8).view(1, 1, 1, self.dim)


def network(part: type[Part]) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), part(lambda module, x: x), nn.Conv2d(8, 6, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


@pytest.mark.parametrize("part", [View, Flat, Split])
def test_the_attribute_follows_the_cut_is_saved_and_can_be_cut_again(part: type[Part]) -> None:
    model = network(part)
    space = ChannelMask(model, INPUTS)
    assert [(group.name, group.size) for group in space.groups.groups] == [("0", 4 if part is Split else 8), ("3", 6)]
    candidate = space.cheapest()
    assert space.check(model, candidate) < 1e-8
    small = space.realize(model, candidate)
    assert model[2].dim == 8
    assert (small[2].dim, small[2].half) == ((8, 1) if part is Split else (1, 4))
    assert small(torch.cat([INPUTS, INPUTS])).shape == (2, 4)
    rebuilt = apply(copy.deepcopy(network(part)), json.loads(json.dumps(space.transformation(candidate))))
    rebuilt.load_state_dict(small.state_dict())
    assert torch.equal(rebuilt(INPUTS), small(INPUTS))
    rest = subset(space.groups, space.groups.mask(candidate))
    assert {len(places) for named in rest.sizes.values() for places in named.values()} == {1}


@pytest.mark.parametrize("part", [Literal, Twice])
def test_an_attribute_that_counts_something_else_stays(part: type[Part]) -> None:
    model = network(part)
    space = ChannelMask(model, INPUTS)
    assert [(group.name, group.size) for group in space.groups.groups] == [("3", 6)]
    assert "fixes 8 channels; write -1" in next(group.reason for group in space.groups.frozen if group.name == "0")
    small = space.realize(model, space.cheapest())
    assert (small[2].dim, small[2].heads) == (8, 8)
