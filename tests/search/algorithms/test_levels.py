"""Algorithms for keep-masks on a space whose decisions have levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from torch import nn

from search.algorithms import ALGORITHMS
from search.algorithms.encoding.channel_encoding import ChannelEncoding, UnreachableTargetError
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.study.problem import Objective, Problem, Target
from spaces.base import SearchSpace
from spaces.candidate import Candidate, Value
from spaces.domains import Choice
from spaces.registry import lookup
from tests.search.algorithms.synthetic_space import MACS, TOP1, drive

SHARES = (0.9, 0.75, 0.5, 0.25, 0.1, 0.0)


class Ratios(SearchSpace):
    """A chain of three layers of 16, 32 and 64 channels, of which a share goes."""

    def __init__(self, budgeted: bool = False) -> None:
        self.budgeted = budgeted
        self.sizes = {"first": 16, "second": 32, "third": 64}
        self.levels: Mapping[str, Sequence[Value]] = dict.fromkeys(self.sizes, SHARES)

    @property
    def domains(self) -> Mapping[str, Choice]:
        return {name: Choice(tuple(reversed(levels))) for name, levels in self.levels.items()}

    def gains(self) -> Mapping[str, np.ndarray]:
        return {name: np.linspace(1.0 + place, 0.1, len(SHARES)) for place, name in enumerate(self.sizes)}

    def costs(self, candidate: Candidate) -> dict[str, float]:
        if self.budgeted:
            return {"macs": 1000.0}
        kept = [size - int(float(candidate.values[name]) * size) for name, size in self.sizes.items()]
        return {"macs": float(kept[0] + kept[0] * kept[1] + kept[1] * kept[2])}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


def costliest(space: Ratios) -> Candidate:
    return Candidate({name: levels[-1] for name, levels in space.levels.items()})


def fitness(space: Ratios) -> Any:
    """Return a fitness that wants the second layer whole, and little of the third."""

    def of(candidate: Candidate, fidelity: float) -> dict[str, float]:
        wanted = {"first": 0.25, "second": 0.0, "third": 0.75}
        distance = sum(abs(float(candidate.values[name]) - share) for name, share in wanted.items())
        return {"top1": 1.0 / (1.0 + distance), **space.costs(candidate)}

    return of


def problem_of(space: Ratios, share: float = 0.5, objectives: Sequence[Objective] = (TOP1,)) -> Problem:
    return Problem(space, objectives, [Target("macs", share * space.costs(costliest(space))["macs"])], {})


@pytest.mark.parametrize(("name", "evaluations"), [("genetic", 80), pytest.param("random", 40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("objectives", [(TOP1,), (TOP1, MACS)])
def test_they_find_the_best_levels_within_the_target(name: str, evaluations: int, objectives: Sequence[Objective]) -> None:
    space = Ratios()
    problem = problem_of(space, objectives=objectives)
    algorithm = lookup(ALGORITHMS, name, "algorithm")
    trials = drive(algorithm(problem, algorithm.Settings(evaluations=evaluations), 0), fitness(space))
    assert len({trial.proposal.candidate.fingerprint for trial in trials if trial.proposal.fidelity == 1.0}) > 10
    for trial in trials:
        space.validate(trial.proposal.candidate)
        assert problem.violation(trial.metrics) == 0.0
    full = [trial for trial in trials if trial.proposal.fidelity == 1.0]
    best = max(full, key=lambda trial: trial.metrics["top1"])
    assert best.metrics["top1"] > 0.75
    if len(objectives) == 1:
        assert dict(best.proposal.candidate.values) == {"first": 0.25, "second": 0.0, "third": 0.75}


@pytest.mark.parametrize("name", ["genetic", "random"])
def test_within_a_budget_of_the_space_levels_are_free(name: str) -> None:
    space = Ratios(budgeted=True)
    problem = problem_of(space, 1.0)
    algorithm = lookup(ALGORITHMS, name, "algorithm")
    settings = algorithm.Settings(evaluations=60)
    trials = drive(algorithm(problem, settings, 0), fitness(space))
    assert {share for trial in trials for share in trial.proposal.candidate.values.values()} == set(SHARES)
    assert uniform(problem) == costliest(space)


def test_baselines_use_the_target_up() -> None:
    space = Ratios()
    problem = problem_of(space)
    level = space.costs(uniform(problem))["macs"] / problem.targets[0].limit
    assert 0.7 < level <= 1.0
    assert space.costs(global_magnitude(problem))["macs"] <= problem.targets[0].limit
    with pytest.raises(UnreachableTargetError):
        uniform(problem_of(space, 1e-4))


def test_masks_and_levels_stand_for_each_other() -> None:
    space = Ratios()
    encoding = ChannelEncoding(problem_of(space))
    rng = np.random.default_rng(0)
    for _ in range(20):
        candidate = space.sample(rng)
        assert encoding.candidate(encoding.masks(candidate)) == candidate
    assert encoding.size() == len(SHARES) ** 3
    assert len({encoding.candidate(masks).fingerprint for masks in encoding.enumerate()}) == len(SHARES) ** 3
