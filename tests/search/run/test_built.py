from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from search.run.built import BuiltOnce
from search.run.network import Network


def test_an_object_is_built_once_for_its_step_and_key_until_the_step_is_forgotten() -> None:
    built, made = BuiltOnce(), []

    def build() -> int:
        made.append(1)
        return len(made)

    assert [built.get("0-search", "key", build), built.get("0-search", "key", build)] == [1, 1]
    assert built.get("0-search", "other", build) == 2
    assert built.get("1-search", "key", build) == 3
    built.forget("0-search")
    built.forget("2-search")
    assert built.get("0-search", "key", build) == 4
    assert built.get("1-search", "key", build) == 3


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


@pytest.mark.parametrize("change", ["weight", "statistics", "layout", "structure", "record"])
def test_the_digest_of_a_network_tells_all_that_a_space_depends_on(change: str) -> None:
    network = Network(model())
    assert network.digest() == Network(copy.deepcopy(network.model)).digest()
    other = network.copy()
    with torch.no_grad():
        if change == "weight":
            other.model[0].weight[0, 0, 0, 0].add_(1e-7)
        elif change == "statistics":
            other.model[1].running_mean.add_(1e-7)
        elif change == "layout":
            other.model[0].weight.data = other.model[0].weight.data.to(memory_format=torch.channels_last)
        elif change == "structure":
            other.model[2] = nn.Sigmoid()
        else:
            other = Network(other.model, ({"kind": "sequence", "steps": []},))
    assert other.digest() != network.digest()
