"""The baselines over bits keep the target, leave no step unused, and are what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from torch import nn

from search.algorithms.encoding.level_allocation import LevelAllocation, random_levels, uniform_allocation
from search.algorithms.encoding.uniform import uniform
from search.algorithms.random import RandomSearch, RandomSettings
from search.study.problem import Objective, Problem, Target
from search.study.trial import Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice, Domain
from spaces.errors import SecateursError

WEIGHTS = {"a.weight": 100, "b.weight": 30, "c.weight": 7}


class Bits(SearchSpace):
    """Three layers of 100, 30 and 7 weights; inputs cost nothing."""

    @property
    def domains(self) -> Mapping[str, Domain]:
        return {**{name: Choice((2, 4, 8)) for name in WEIGHTS}, "a.activation": Choice((4, 8))}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def costs(self, candidate: Candidate) -> dict[str, float]:
        return {"size_bytes": sum(count * float(candidate.values[name]) for name, count in WEIGHTS.items())}

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


def problem(limit: float | None) -> Problem:
    targets = [] if limit is None else [Target("size_bytes", limit)]
    return Problem(Bits(), [Objective("top1", "maximize")], targets, {})


def test_uniform_gives_all_the_same_and_fills_up_in_graph_order() -> None:
    exact = uniform_allocation(problem(137 * 4))
    assert exact.values == {"a.weight": 4, "b.weight": 4, "c.weight": 4, "a.activation": 8}
    more = uniform(problem(137 * 4 + 150))
    assert more.values == {"a.weight": 4, "b.weight": 8, "c.weight": 8, "a.activation": 8}
    with pytest.raises(SecateursError, match="exceed a target"):
        uniform_allocation(problem(100))
    with pytest.raises(SecateursError, match="needs a target"):
        uniform_allocation(problem(None))


def test_random_ones_keep_the_target_and_leave_no_step_unused() -> None:
    allocation = LevelAllocation(problem(500))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        candidate = random_levels(allocation, rng)
        seen.add(candidate.fingerprint)
        assert Bits().costs(candidate)["size_bytes"] <= 500
        for name, options in allocation.options.items():
            step = list(options).index(candidate.values[name])
            if step + 1 < len(options):
                assert Bits().costs(Candidate({**candidate.values, name: options[step + 1]}))["size_bytes"] > 500
    assert len(seen) > 1


def test_random_search_draws_each_allocation_once_and_ends() -> None:
    search = RandomSearch(problem(500), RandomSettings(evaluations=30), seed=1)
    number, seen = 0, set()
    while not search.finished:
        for proposal in search.ask(4):
            assert proposal.candidate.fingerprint not in seen
            seen.add(proposal.candidate.fingerprint)
            search.tell(Trial(number, proposal, "complete", {"top1": 0.5}))
            number += 1
    again = RandomSearch(problem(500), RandomSettings(evaluations=30), seed=1)
    assert {proposal.candidate.fingerprint for proposal in again.ask(3)} <= seen
