"""Predicted peaks of activation memory against those counted on built networks, dense and cut."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from evaluators.base import EvaluationContext
from evaluators.cost import Cost, CostSettings, count_peak_activation_bytes
from spaces import networks
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.execution.operator_mode import OperatorMode, Unfused
from spaces.layers.split_attention import split_attention
from tests.evaluators.small_task import digits_task
from tests.spaces.zoo import example, network


class Live(OperatorMode):
    """Sums the storages that live after every operator, those of the network left out; attention is not fused."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self.live: dict[int, int] = {}
        self.peak = 0

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        for leaf in tree_leaves((args, kwargs, output)):
            storage = leaf.untyped_storage() if isinstance(leaf, Tensor) else None
            if storage is not None and storage.nbytes() and storage.data_ptr() not in self.own | self.live.keys():
                self.live[storage.data_ptr()] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage.data_ptr()).atexit = False
        self.peak = max(self.peak, sum(self.live.values()))
        return output


def counted(model: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad(), Live(model) as live, Unfused():
        model(inputs)
    return live.peak


class Recurring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(2):
            x = x + self.second(F.gelu(self.first(self.norm(x))))
        return self.head(x.mean(1))


IMAGE = torch.randn(1, 3, 16, 16)
ZOO = ("dense", "split_shuffle", "squeeze_excite", "grouped", "attention")
SMALL = {
    **{name: (lambda name=name: network(name), None) for name in ZOO},
    "transposed": (lambda: network("transposed"), None),
    "instance_norm": (lambda: nn.Sequential(nn.Conv2d(3, 9, 3), nn.InstanceNorm2d(9), nn.ReLU(), nn.Conv2d(9, 2, 1)), IMAGE),
    "group_norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 2, 1)), IMAGE),
    "pooled": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(8, 2, 1)), IMAGE),
    "tokens": (Recurring, torch.randn(1, 7, 8)),
    "resnet20": (networks.resnet20, torch.randn(1, 3, 32, 32)),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_predicted_peak_is_that_of_live_tensors_on_the_built_network(name: str) -> None:
    factory, inputs = SMALL[name]
    inputs = example(name) if inputs is None else inputs
    torch.manual_seed(0)
    model = split_attention(factory().eval())
    space = ChannelMask(model, inputs, ChannelMaskSettings(compensate=False))
    dense = space._cost.of(np.ones(space.groups.width, dtype=bool))["peak_activation_bytes"]
    assert dense == count_peak_activation_bytes(model, inputs) == pytest.approx(counted(model, inputs), rel=0.01)
    for candidate in (space.cheapest(), space.sample(np.random.default_rng(3))):
        small = space.realize(model, candidate).eval()
        predicted = space.costs(candidate)["peak_activation_bytes"]
        assert predicted == pytest.approx(counted(small, inputs), rel=0.01)
        assert predicted == pytest.approx(count_peak_activation_bytes(small, inputs), rel=0.01)
        assert predicted <= dense
    assert predicted < dense or name in ("grouped", "attention", "group_norm")


def test_the_evaluator_adds_the_peak_where_it_is_asked_for() -> None:
    task = digits_task()
    model = task.build()
    context = EvaluationContext(task, torch.Generator(), torch.device("cpu"), 1.0, model, {})
    found = Cost(CostSettings(activations=True)).evaluate(model, context)
    assert found["peak_activation_bytes"] == count_peak_activation_bytes(model, task.example_inputs()) > 0
    assert set(found) == set(Cost(CostSettings(activations=True)).metrics)
    assert "peak_activation_bytes" not in Cost(CostSettings()).metrics
