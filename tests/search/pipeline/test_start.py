"""The start of a run: networks of any task without the wrappers of training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from evaluators.tasks.loader_task import LoaderTask
from search.config.loading import configure
from search.pipeline.start import Start
from search.run.network import restore
from spaces.cloning.plain_network import without_wrappers
from spaces.errors import NetworkWarning


class Standardized(nn.Linear):
    """A layer with weights that its own code standardizes."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return nn.functional.linear(x, weight / weight.std(1, keepdim=True), self.bias)


class Standard(LoaderTask):
    """A task whose factory makes a layer of that kind."""

    def build(self) -> nn.Module:
        return nn.Sequential(super().build(), Standardized(3, 3))


class Wrapped(LoaderTask):
    """A task whose factory wraps its network, and computes a weight."""

    def build(self) -> nn.Module:
        network = super().build()
        return nn.DataParallel(nn.Sequential(network, nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))))


def test_networks_of_a_persons_own_task_are_unwrapped_and_rebuilt_alike() -> None:
    given = DataLoader(TensorDataset(torch.randn(6, 4), torch.arange(6) % 3), batch_size=2)
    task = Wrapped(nn.Linear(4, 3), given, given)
    config = configure({"name": "x", "seed": 0, "stages": [{"train": {"epochs": 1, "batch_size": 2}}]}, task)
    with pytest.warns(NetworkWarning) as told:
        network = Start(config).network
    assert [word in str(one.message) for word, one in zip(("DataParallel", "folded"), told, strict=True)] == [True, True]
    assert list(network.model.state_dict()) == ["0.weight", "0.bias", "1.bias", "1.weight"]
    again = restore(task, (), network.tensors())
    assert all(torch.equal(one, again.model.state_dict()[name]) for name, one in network.model.state_dict().items())


def test_weights_that_a_factory_makes_layers_compute_are_folded() -> None:
    given = DataLoader(TensorDataset(torch.randn(6, 4), torch.arange(6) % 3), batch_size=2)
    task = Standard(nn.Linear(4, 3), given, given)
    config = configure({"name": "x", "seed": 0, "stages": [{"train": {"epochs": 1, "batch_size": 2}}]}, task)
    with pytest.warns(NetworkWarning, match="the forward of Standardized"):
        network = Start(config).network
    assert type(network.model[1]) is nn.Linear
    again = restore(task, (), network.tensors())
    torch.testing.assert_close(again.model(torch.ones(2, 4)), network.model(torch.ones(2, 4)))


def test_a_plain_network_stays_the_object_that_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    assert without_wrappers(model) is model
