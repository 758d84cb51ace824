"""Predicted multiply-accumulates against ``FlopCounterMode`` on the meta device, dense and cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from evaluators.cost import count_costs
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.layers.operator_macs import operator_macs

aten = torch.ops.aten


def half_flops(operator: Any) -> Any:
    """Return a formula for ``FlopCounterMode`` of an operator that it does not know."""

    def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return 2 * operator_macs(operator.default, args, out_val)

    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


MISSING: Mapping[Any, Any] = {operator: half_flops(operator) for operator in (aten.mv, aten.addmv, aten.dot, aten._trilinear)}


def counted(model: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=dict(MISSING)) as counter:
        copy.deepcopy(model).to("meta")(inputs.to("meta"))
    return counter.get_total_flops() / 2


class Image(nn.Module):
    """Two convolutions, code between and behind them, and a head on the mean."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.extra = nn.Linear(16, 16)
        self.experts = nn.Parameter(torch.randn(4, 16 * 16))
        self.route = nn.Linear(16, 4)
        self.o = nn.Linear(12, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x if self.between is None else self.between(self, x)
        return self.o(F.relu(self.b(x)).mean((2, 3)))


class Folded(Image):
    """Frames of a film, folded into the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


def conditional(model: Any, x: Tensor) -> Tensor:
    weight = (model.route(x.mean((2, 3))).softmax(1) @ model.experts).view(16, 16, 1, 1)
    return F.conv2d(x, weight)


def standardized(model: Any, x: Tensor) -> Tensor:
    weight = model.extra.weight
    return F.conv2d(x, ((weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True))[:, :, None, None])


class Tokens(nn.Module):
    """Something over tokens between an embedding and a perceptron whose channels are open."""

    def __init__(self, mixing: nn.Module) -> None:
        super().__init__()
        self.embed, self.mixing = nn.Linear(8, 16), mixing
        self.tail = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 5))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixing(self.embed(x))
        return self.tail(mixed if isinstance(mixed, Tensor) else mixed[0])


class Attend(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv = how, nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.how == "sdpa" else self.qkv.bias
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if self.how == "matmul":
            return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        scores = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
        return torch.einsum("bhij,bhjd->bihd", scores, v).flatten(2)


class Cells(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell: Any = kind(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x[:, 0])
        for step in range(1, x.shape[1]):
            state = self.cell(x[:, step], state)
        return state if isinstance(state, Tensor) else state[0]


IMAGE, FILM, TEXT = torch.randn(1, 3, 8, 8), torch.randn(1, 4, 3, 8, 8), torch.randn(1, 9, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "plain": (Image, IMAGE),
    "frames": (Folded, FILM),
    "conditional": (lambda: Image(conditional), IMAGE),
    "standardized": (lambda: Image(standardized), IMAGE),
    "sdpa": (lambda: Tokens(Attend("sdpa")), TEXT),
    "matmul": (lambda: Tokens(Attend("matmul")), TEXT),
    "einsum": (lambda: Tokens(Attend("einsum")), TEXT),
    "attention": (lambda: Tokens(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)), TEXT),
    "lstm": (lambda: Tokens(nn.LSTM(16, 16, 2, batch_first=True, bidirectional=False)), TEXT),
    "both ways": (lambda: Tokens(nn.LSTM(16, 8, batch_first=True, bidirectional=True)), TEXT),
    "gru": (lambda: Tokens(nn.GRU(16, 16, batch_first=True)), TEXT),
    "rnn": (lambda: Tokens(nn.RNN(16, 16, batch_first=True)), TEXT),
    "lstm cell": (lambda: Tokens(Cells(nn.LSTMCell)), TEXT),
    "gru cell": (lambda: Tokens(Cells(nn.GRUCell)), TEXT),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 4, 2), nn.Conv2d(6, 2, 1)), IMAGE),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)), IMAGE),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_macs_are_those_counted_on_the_meta_device(name: str) -> None:
    factory, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model = factory().eval()
    space = ChannelMask(model, inputs, ChannelMaskSettings(compensate=False))
    assert space.network_macs == counted(model, inputs) == count_costs(model, inputs)["macs"]
    assert sum(space.groups.module_macs.values()) == space.network_macs
    for candidate in (space.cheapest(), space.sample(np.random.default_rng(3))):
        small = space.realize(model, candidate).eval()
        costs = space.costs(candidate)
        assert costs["macs"] < space.network_macs
        assert costs["macs"] == counted(small, inputs) == count_costs(small, inputs)["macs"]


def test_macs_stand_with_the_module_that_computes_them() -> None:
    space = ChannelMask(Tokens(Attend("matmul")), TEXT)
    found = space.groups.module_macs
    assert found == {
        "mixing": 9 * 16 * 48 + 2 * 4 * 9 * 9 * 4,
        "embed": 9 * 8 * 16,
        "tail.0": 9 * 16 * 24,
        "tail.2": 9 * 24 * 5,
    }


def test_masks_that_are_counted_together_cost_what_each_costs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    space = ChannelMask(Image(), torch.randn(1, 3, 8, 8))
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(20)]
    assert len({candidate.fingerprint for candidate in drawn}) > 10
    alone = [space.costs(candidate) for candidate in drawn]
    assert space.costs_of(drawn) == alone
    monkeypatch.setattr("spaces.channels.cost._AT_ONCE", 100)
    assert space.costs_of(drawn) == alone, "expected the same in several parts"
    assert space.costs_of([]) == []
