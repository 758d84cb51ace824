"""What two networks have in common before their first difference is given back, bit by bit, and nothing behind it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.groups import find_groups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.execution.replay import Recording
from tests.spaces.zoo import ZOO, example, network


def recorded(model: nn.Module, inputs: Tensor, most_bytes: float = 1e9) -> Recording:
    with torch.inference_mode():
        return Recording(model, lambda one: one(inputs.clone()), most_bytes)


def compared(record: Recording, model: nn.Module, inputs: Tensor) -> int:
    """Check the outputs of a network that takes from a record, and return the number of calls that it took."""
    with torch.inference_mode():
        expected = model(inputs.clone())
        with record.shared_with(model) as calls:
            answer = model(inputs.clone())
        assert torch.equal(answer, expected)
        assert torch.equal(model(inputs.clone()), expected)
    assert all("forward" not in vars(module) for module in model.modules())
    return calls


@pytest.mark.parametrize("name", list(ZOO))
def test_each_group_cut_alone_gives_the_same_outputs(name: str) -> None:
    model, inputs = network(name), example(name)
    groups, record = find_groups(model, inputs), recorded(model, inputs)
    calls = []
    for chosen in groups.groups:
        mask = np.concatenate([np.arange(one.size) < (one.size if one is not chosen else 1) for one in groups.groups])
        calls.append(compared(record, apply_cut(model, plan_cut(groups, mask)).eval(), inputs))
    whole = compared(record, copy.deepcopy(model), inputs)
    assert whole > 0
    assert all(count < whole for count in calls)


def test_layers_that_do_not_fit_are_run_again() -> None:
    model, inputs = network("residual"), example("residual")
    counts = [compared(recorded(model, inputs, most), model, inputs) for most in (0, 4096, 1e9)]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2]


class ReadElsewhere(nn.Module):
    """The weight of a layer is read by a function before the layer is called, and an attribute by another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(self.first(x), self.third.weight)
        x = F.layer_norm(self.second(x), (4,), eps=self.norm.eps)
        return self.third(x.relu_())


@pytest.mark.parametrize(("name", "calls"), [("third.weight", 0), ("third.bias", 2), ("second.weight", 1), ("first.bias", 0)])
def test_a_tensor_that_is_read_elsewhere_leaves_nothing_to_share(name: str, calls: int) -> None:
    torch.manual_seed(0)
    model, inputs = ReadElsewhere().eval(), torch.randn(3, 4)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(name).add_(1.0)
    assert compared(recorded(model, inputs), other, inputs) == calls


@pytest.mark.parametrize("name", ["1.self_attn.out_proj.weight", "1.linear2.bias", "2.weight"])
def test_a_layer_with_a_fast_path_gives_the_same_up_to_a_rounding(name: str) -> None:
    torch.manual_seed(0)
    inner = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, inputs = nn.Sequential(nn.Linear(4, 8), inner, nn.Linear(8, 4)).eval(), torch.randn(2, 5, 4)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(name).add_(1.0)
    record = recorded(model, inputs)
    with torch.inference_mode(), record.shared_with(other) as calls:
        answer = other(inputs)
    torch.testing.assert_close(answer, other(inputs))
    assert calls >= 1


def test_a_changed_attribute_counts_from_the_module_around_it() -> None:
    model, inputs = ReadElsewhere().eval(), torch.randn(3, 4)
    other = copy.deepcopy(model)
    other.norm.eps = 0.5
    assert compared(recorded(model, inputs), other, inputs) == 0


def test_a_layer_of_another_kind_ends_what_is_shared() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    other = copy.deepcopy(model)
    other[1] = nn.Identity()
    assert compared(recorded(model, torch.ones(2, 4)), other, torch.ones(2, 4)) == 1
