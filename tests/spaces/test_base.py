"""The interface of every space: defaults, and what the registered spaces say of themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.cost import count_costs
from spaces import SPACES
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.domains import Choice, Domain
from spaces.errors import EquivalenceError
from spaces.execution.forward import call
from spaces.registry import lookup
from tests.spaces.zoo import example, network

BATCH = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Scaled(SearchSpace[None]):
    """Scales the last bias; a conversion that forgets to is wrong."""

    wrong = False

    @property
    def domains(self) -> Mapping[str, Domain]:
        return {"scale": Choice((1.0, 2.0))}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        prepared = copy.deepcopy(model)
        with torch.no_grad():
            list(prepared.parameters())[-1].mul_(candidate.number("scale"))
        return prepared

    def convert(self, prepared: nn.Module) -> nn.Module:
        converted = copy.deepcopy(prepared)
        with torch.no_grad():
            list(converted.parameters())[-1].add_(1e-3 if self.wrong else 0.0)
        return converted

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        return {"kind": "sequence", "steps": []}


def test_the_least_space_answers_every_question_of_a_caller() -> None:
    space = Scaled()
    assert space.channels is None
    assert (space.quantizers, list(space.frozen), space.levels, space.budgeted, space.learns) == ((), [], None, False, False)
    assert (space.gains(), space.open_layers(), space.open_share(), space.cheapest()) == ({}, {}, 0.0, None)
    candidate = space.sample(np.random.default_rng(0))
    assert (space.costs(candidate), space.latency_terms(candidate), space.report_rows(candidate)) == ({}, {}, {})
    assert space.sparsifier(candidate) is None
    assert space.check(nn.Linear(2, 2), candidate) == 0.0


def test_a_conversion_that_answers_otherwise_is_found_without_a_check_of_the_spaces_own() -> None:
    model = network("plain").eval()
    space = Scaled(model, example("plain"))
    candidate = Candidate({"scale": 2.0})
    assert space.check(model, candidate) == 0.0
    assert space.check_prepared(space.prepare(model, candidate)) == 0.0
    space.wrong = True
    with pytest.raises(EquivalenceError, match="differs"):
        space.check(model, candidate)
    with pytest.raises(EquivalenceError, match="differs"):
        space.check_prepared(space.prepare(model, candidate))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_keeps_the_constructors_contract(name: str) -> None:
    kind = lookup(SPACES, name, "space")
    model, inputs = network("residual").eval(), example("residual")
    space = kind(model, inputs, kind.Settings(), forward=call, batches=iter([BATCH]))
    assert isinstance(space, SearchSpace)
    assert space.settings == kind.Settings()
    assert space.settings == kind(model, inputs, batches=iter([BATCH])).settings
    with pytest.raises(TypeError, match="positional"):
        kind(model, inputs, kind.Settings(), call)
    assert space.domains
    assert all(part.reason and 0.0 <= part.macs_share <= 1.0 for part in space.frozen)


@pytest.mark.parametrize("name", SPACES)
def test_the_open_share_is_of_all_macs(name: str) -> None:
    kind = lookup(SPACES, name, "space")
    model, inputs = network("residual").eval(), example("residual")
    space = kind(model, inputs, batches=iter([BATCH]))
    whole = count_costs(model, inputs)["macs"]
    assert space.network_macs == whole
    smallest = space.cheapest()
    assert smallest is not None
    assert space.open_share() == pytest.approx(1.0 - space.costs(smallest)["macs"] / whole)
    assert (space.open_share() > 0.0) is (name != "bit_width")


def test_the_open_share_counts_linear_layers_and_what_no_mask_changes() -> None:
    model, inputs = network("plain").eval(), example("plain")
    whole = count_costs(model, inputs)["macs"]
    space = ChannelMask(model, inputs, ChannelMaskSettings(include=("hidden",), max_ratio=1.0))
    share = space.open_share()
    small = space.realize(model, space.cheapest())
    assert share == pytest.approx(1.0 - count_costs(small, inputs)["macs"] / whole)
    assert 0.0 < share < 1.0
