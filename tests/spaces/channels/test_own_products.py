"""Layers written as products with a parameter of the running module: found, named, cut, masked and counted as modules are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.cost import count_costs
from spaces.channel_mask import ChannelMask
from spaces.channels.groups import find_groups
from spaces.importance.criterion import score
from spaces.sparsifiers.pruned_groups import channel_scores
from spaces.sparsifiers.zeroing import zero_channels

TOKENS = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """A parameter of shape ``(in, out)`` and a bias."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__()
        self.writes = writes
        self.table = nn.Parameter(torch.randn(reads, writes) / reads**0.5)
        self.shift = nn.Parameter(torch.randn(writes))


class Conv1D(Own):
    """The layer of GPT-2."""

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.shape[:-1], self.writes)
        return torch.addmm(self.shift, x.view(-1, x.size(-1)), self.table).view(size)


class At(Own):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table + self.shift


class Left(Own):
    def forward(self, x: Tensor) -> Tensor:
        return (self.table.t() @ x.transpose(1, 2)).transpose(1, 2)


class Einsum(Own):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bnd,de->bne", x, self.table)


class Batched(Own):
    def forward(self, x: Tensor) -> Tensor:
        added = self.shift.view(1, 1, -1).expand(x.shape[0], x.shape[1], -1)
        return torch.baddbmm(added, x, self.table.expand(x.shape[0], -1, -1))


class Function(Own):
    def __init__(self, reads: int, writes: int) -> None:
        super().__init__(reads, writes)
        self.table = nn.Parameter(self.table.detach().t().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table, self.shift)


class Transposed(Own):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table.T, self.shift)


class Reshaped(Own):
    """A convolution with another form of its weight."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__(reads, writes)
        self.table = nn.Parameter(torch.randn(writes, reads, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x.transpose(1, 2), self.table.squeeze(-1).unsqueeze(2), self.shift).transpose(1, 2)


class Kernel(Own):
    def __init__(self, reads: int, writes: int) -> None:
        super().__init__(reads, writes)
        self.table = nn.Parameter(torch.randn(writes, reads, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.table, self.shift, padding=1)


class Two(nn.Module):
    """Two layers in one module, the second of which is at no module's input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 12))
        self.second = nn.Parameter(torch.randn(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        # Without a shift a removed channel would be one that is zero.
        return (x @ self.first).exp() @ self.second


LAYERS = {
    "addmm": (Conv1D, TOKENS),
    "matmul": (At, TOKENS),
    "left": (Left, TOKENS),
    "einsum": (Einsum, TOKENS),
    "baddbmm": (Batched, TOKENS),
    "linear": (Function, TOKENS),
    "transposed": (Transposed, TOKENS),
    "reshaped": (Reshaped, TOKENS),
    "conv": (Kernel, IMAGE),
}


def space_of(network: nn.Module, inputs: Tensor) -> ChannelMask:
    space = ChannelMask(network, inputs)
    rng = np.random.default_rng(0)
    assert space.network_macs == count_costs(network, inputs)["macs"]
    for _ in range(2):
        candidate = space.sample(rng)
        small = space.realize(network, candidate)
        assert space.check(network, candidate) < 1e-9
        sliced, masked = (one.double() for one in (copy.deepcopy(small), space.prepare(network, candidate)))
        torch.testing.assert_close(sliced(inputs.double()), masked(inputs.double()))
        predicted, counted = space.costs(candidate), count_costs(small, inputs)
        assert {name: predicted[name] for name in counted} == counted
    return space


@pytest.mark.parametrize("name", LAYERS)
def test_a_product_with_an_own_parameter_is_a_layer(name: str) -> None:
    torch.manual_seed(0)
    layer, inputs = LAYERS[name]
    network = nn.Sequential(layer(8, 12), nn.Sigmoid(), layer(12, 10), nn.Sigmoid(), layer(10, 4)).eval()
    groups = space_of(network, inputs).groups
    found = [(group.name, group.size, group.members) for group in groups.groups]
    assert found == [
        ("0", 12, ("0", "2")),
        ("2", 10, ("2", "4")),
    ]
    assert [group.reason for group in groups.frozen] == ["network output"]


def test_several_products_of_one_module_are_each_masked_scored_and_counted() -> None:
    torch.manual_seed(0)
    network = Two().eval()
    space = space_of(network, TOKENS)
    (group,) = space.groups.groups
    assert (group.name, group.size, group.members) == ("the network itself", 12, ("the network itself",))
    torch.testing.assert_close(
        torch.from_numpy(score(network, space.groups, "l2")[group.name]).float(), network.first.norm(dim=0)
    )
    torch.testing.assert_close(channel_scores(network, space.groups, 2).float(), network.second.norm(dim=1))


class Several(nn.Module):
    """Layers in a list of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ParameterList([torch.randn(8, 12), torch.randn(12, 10), torch.randn(10, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for table in self.tables[:-1]:
            x = (x @ table).sigmoid()
        return x @ self.tables[-1]


def test_layers_in_a_list_of_parameters_are_found_and_zeroed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Several()).eval()
    space = space_of(network, TOKENS)
    assert [group.size for group in space.groups.groups] == [12, 10]
    mask = np.ones(22, dtype=bool)
    mask[[3, 14]] = False
    zeroed = zero_channels(copy.deepcopy(network), space.groups, mask)[0].tables  # type: ignore[index, union-attr]
    assert [bool(zeroed[0][:, 3].any()), bool(zeroed[1][:, 2].any())] == [False, False]
    assert [bool(zeroed[0][:, 4].any()), bool(zeroed[1][:, 3].any())] == [True, True]


def test_masks_survive_copies_training_mode_and_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(At(8, 12), nn.Sigmoid(), nn.Dropout(0.0), At(12, 4))
    space = ChannelMask(network.eval(), TOKENS)
    candidate = space.sample(np.random.default_rng(1))
    masked = copy.deepcopy(space.prepare(network, candidate)).train()
    masked(TOKENS).square().sum().backward()
    gone = torch.from_numpy(~candidate.mask("0"))
    assert gone.any()
    assert not masked[3].table.grad[gone].any()  # type: ignore[index, union-attr]
    assert masked[3].table.grad[~gone].any()  # type: ignore[index, union-attr]


class Normed(nn.Module):
    """A computed weight: the norm is over the channels that would be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 12))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight / self.weight.norm())


def test_a_product_with_a_computed_weight_stays() -> None:
    groups = find_groups(nn.Sequential(nn.Linear(8, 8), Normed(), nn.Linear(12, 4)).eval(), TOKENS)
    assert not groups.groups
    assert "mm is not handled, at `return x @ (self.weight" in next(one.reason for one in groups.frozen if one.name == "0")
