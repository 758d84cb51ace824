"""Numbers of channels that code reads from an attribute of its module are set with the cut."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
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


class Uneven(Part):
    """Parts by numbers in a list, and the rest by a difference of two attributes."""

    def __init__(self, run: Callable[[Part, Tensor], Tensor]) -> None:
        super().__init__(run)
        self.parts, self.first = [3, 5], 3
        self.wide = nn.Conv2d(3, 3, 3, padding=1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(x, self.parts, 1)
        x = torch.cat([self.wide(first), rest], 1)
        first, rest = x.split([self.first, self.dim - self.first], 1)
        return torch.cat([first.relu(), rest], 1)


class Slices(Part):
    """Slices at an attribute, at a sum with it, and from the end."""

    def __init__(self, run: Callable[[Part, Tensor], Tensor]) -> None:
        super().__init__(run)
        self.first, self.second, self.last = 3, 2, 3
        self.wide = nn.Conv2d(3, 3, 1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        first, middle = x[:, : self.first], x[:, self.first : self.first + self.second]
        last = x[:, -self.last :] + x.narrow(1, self.first + self.second, self.last)
        return torch.cat([self.wide(first), middle.relu(), last], 1)


class Halves(Part):
    """Half of the channels, from an attribute and from a shape."""

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.split(self.dim // 2, 1)
        x = torch.cat([one.relu(), other], 1)
        half = x.shape[1] // 2
        return torch.cat([x[:, :half].tanh(), x[:, half:]], 1)


@pytest.mark.parametrize("part", [Uneven, Slices])
def test_unequal_parts_move_with_the_channels_in_them(part: type[Part]) -> None:
    model = network(part)
    space = ChannelMask(model, INPUTS)
    assert not [group.reason for group in space.groups.frozen if group.name != "6"]
    assert sum(group.size for group in space.groups.groups if group.name.startswith("0")) == 8
    for seed in range(3):
        candidate = space.sample(np.random.default_rng(seed))
        assert space.check(model, candidate) < 1e-8
        small = space.realize(model, candidate)
        kept = space.groups.mask(candidate)[list(space.groups.ties["0.weight"][0])]
        assert small[2].first == kept[:3].sum()
        if part is Uneven:
            assert small[2].parts == [kept[:3].sum(), kept[3:].sum()]
            assert model[2].parts == [3, 5]
        else:
            assert (small[2].second, small[2].last) == (kept[3:5].sum(), kept[5:].sum())
        rebuilt = apply(copy.deepcopy(network(part)), json.loads(json.dumps(space.transformation(candidate))))
        rebuilt.load_state_dict(small.state_dict())
        assert torch.equal(rebuilt(INPUTS), small(INPUTS))


def test_halves_keep_equal_numbers() -> None:
    model = network(Halves)
    space = ChannelMask(model, INPUTS)
    assert [(group.name, group.size) for group in space.groups.groups] == [("0", 4), ("3", 6)]
    small = space.realize(model, space.cheapest())
    assert (small[0].out_channels, small[2].dim) == (2, 2)


class Written(Part):
    """A part that is written over, as FasterNet does."""

    def __init__(self, run: Callable[[Part, Tensor], Tensor]) -> None:
        super().__init__(run)
        self.first, self.conv = 3, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, : self.first, :, :] = self.conv(x[:, : self.first, :, :])
        return x


def test_a_part_that_is_written_over_keeps_its_channels() -> None:
    model = network(Written)
    space = ChannelMask(model, INPUTS)
    assert [(group.name, group.size) for group in space.groups.groups] == [("0", 3), ("0#2", 5), ("3", 6)]
    assert space.check(model, space.cheapest()) < 1e-8
    assert space.realize(model, space.cheapest())[2].conv.weight.shape[:2] == (1, 1)


class Prefix(Part):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :3].relu(), x[:, 3:]], 1)


def test_channels_before_a_number_in_the_code_stay_alone() -> None:
    space = ChannelMask(network(Prefix), INPUTS)
    assert [(group.name, group.size) for group in space.groups.groups] == [("0#2", 5), ("3", 6)]
    assert "slice picks channels by fixed position" in next(g.reason for g in space.groups.frozen if g.name == "0")
    assert space.check(network(Prefix), space.cheapest()) < 1e-8


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
