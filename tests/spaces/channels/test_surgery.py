from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.cost import count_costs
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.errors import InvalidCandidateError, SecateursError
from spaces.transformation import apply
from tests.spaces.zoo import ZOO, example, network

OPEN = list(ZOO)


def candidates(space: ChannelMask, number: int = 3) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(number)]


@pytest.mark.parametrize("name", OPEN)
def test_prepare_then_convert_equals_realize(name: str) -> None:
    model, inputs = network(name), example(name)
    space = ChannelMask(model, inputs)
    for candidate in candidates(space):
        prepared = space.prepare(model, candidate)
        small = space.realize(model, candidate)
        converted = space.convert(prepared)
        assert {k: v.shape for k, v in converted.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}
        torch.testing.assert_close(converted(inputs), small(inputs))
        torch.testing.assert_close(prepared(inputs), small(inputs), atol=2e-5, rtol=1e-4)


def test_prepared_network_trains_and_converts_to_its_equal() -> None:
    model, inputs = network("residual"), torch.randn(4, 3, 8, 8)
    space = ChannelMask(model, example("residual"))
    prepared = space.prepare(model, candidates(space)[0]).train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(inputs).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(prepared.eval()(inputs), space.convert(prepared).eval()(inputs), atol=1e-5, rtol=1e-4)


def test_realized_network_shares_nothing_and_leaves_the_reference_alone() -> None:
    model, inputs = network("residual"), example("residual")
    space = ChannelMask(model, inputs)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    full = Candidate({name: "1" * domain.length for name, domain in space.domains.items()})
    copy = space.realize(model, full)
    for parameter in copy.parameters():
        parameter.data.zero_()
    for name, buffer in copy.named_buffers():
        buffer.zero_()
        assert name in before
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", OPEN)
def test_structure_is_rebuilt_from_json(name: str) -> None:
    model, inputs = network(name), example(name)
    space = ChannelMask(model, inputs)
    candidate = candidates(space)[0]
    small = space.realize(model, candidate)
    stored = json.loads(json.dumps(space.transformation(candidate)))
    rebuilt = apply(network(name, seed=9), stored)
    rebuilt.load_state_dict(small.state_dict())
    assert torch.equal(rebuilt.eval()(inputs), small.eval()(inputs))


def test_a_transformation_that_does_not_fit_is_a_named_error() -> None:
    space = ChannelMask(network("plain"), example("plain"))
    stored = space.transformation(candidates(space)[0])
    with pytest.raises(SecateursError, match="first.0.weight.*was its factory changed"):
        apply(nn.Sequential(nn.Conv2d(3, 4, 1)), stored)
    with pytest.raises(SecateursError, match="unknown transformation"):
        apply(network("plain"), {"kind": "slice_chanels"})


@pytest.mark.parametrize("name", OPEN)
def test_analytic_costs_equal_the_built_network(name: str) -> None:
    model, inputs = network(name), example(name)
    space = ChannelMask(model, inputs)
    for candidate in candidates(space):
        costs = space.costs(candidate)
        small = space.realize(model, candidate)
        assert costs["parameters"] == sum(p.numel() for p in small.parameters())
        assert costs["size_bytes"] == sum(t.numel() * t.element_size() for t in small.state_dict().values())
        assert costs["macs"] == count_costs(small, inputs)["macs"]
        # It misses fused attention on the CPU.
        if name != "attention":
            from torch.utils.flop_counter import FlopCounterMode

            with FlopCounterMode(display=False) as counter:
                small(inputs)
            assert costs["macs"] == counter.get_total_flops() / 2


def test_invalid_candidates_are_named() -> None:
    space = ChannelMask(network("plain"), example("plain"))
    legal = candidates(space)[0]
    with pytest.raises(InvalidCandidateError, match="missing"):
        space.realize(network("plain"), Candidate({}))
    with pytest.raises(InvalidCandidateError, match="unknown decision 'other'"):
        space.validate(Candidate({**legal.values, "other": "1"}))
    with pytest.raises(InvalidCandidateError, match="expected 8 characters"):
        space.validate(Candidate({**legal.values, "first.0": "00000000"}))


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.one = nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 2)
            self.alias = self.head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.alias(self.one(self.conv(x)).mean((2, 3)))

    model = Tied().eval()
    space = ChannelMask(model, example("plain"))
    small = space.realize(model, candidates(space)[0])
    assert small.head is small.alias
