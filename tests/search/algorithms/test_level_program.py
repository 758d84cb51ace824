"""The integer program over levels, against enumeration: costs of single decisions, of pairs, and of three together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from search.algorithms.encoding import level_encoding
from search.algorithms.encoding.level_encoding import LevelEncoding
from search.algorithms.integer_program import IntegerProgram, IntegerProgramSettings, MixedIntegerProgram, optimum
from search.study.problem import Objective, Problem, Target
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice, Domain
from spaces.errors import SecateursError
from tests.search.algorithms.synthetic_space import MACS, SyntheticSpace, problem_of

DIVERGENCE = Objective("divergence", "minimize")


class Tables(SearchSpace):
    """Costs by level: of every decision, of every two, and perhaps of the first three together."""

    def __init__(self, sizes: list[int], rng: np.random.Generator, three: bool = False, pairs: float = 0.6) -> None:
        self._domains = {f"unit{at}": Choice(tuple(range(size))) for at, size in enumerate(sizes)}
        self.own = [np.sort(rng.integers(0, 50, size)) for size in sizes]
        self.together = {
            (first, second): np.sort(np.sort(rng.integers(0, 40, (sizes[first], sizes[second])), 0), 1)
            for first, second in itertools.combinations(range(len(sizes)), 2)
            if rng.random() < pairs
        }
        self.three = three

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self._domains

    def costs(self, candidate: Candidate) -> dict[str, float]:
        levels = [int(candidate.number(name)) for name in self._domains]
        total = sum(own[at] for own, at in zip(self.own, levels, strict=True))
        total += sum(one[levels[first], levels[second]] for (first, second), one in self.together.items())
        return {"macs": float(total + (5 * np.prod(np.add(levels[:3], 1)) if self.three else 0))}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


def problem(sizes: list[int], seed: int, share: float, three: bool = False) -> Problem:
    rng = np.random.default_rng(seed)
    space = Tables(sizes, rng, three)
    ends = [space.costs(Candidate({f"unit{at}": end(size) for at, size in enumerate(sizes)}))["macs"] for end in (low, high)]
    losses = {f"unit{at}": [*np.sort(rng.random(size - 1))[::-1].tolist(), 0.0] for at, size in enumerate(sizes)}
    return Problem(space, [DIVERGENCE], [Target("macs", ends[0] + share * (ends[1] - ends[0]))], {"divergence": losses})


def low(size: int) -> int:
    return 0


def high(size: int) -> int:
    return size - 1


def least(given: Problem) -> float:
    """Return the least loss of all candidates under the targets."""
    losses = given.tables["divergence"]
    found = [
        sum(losses[name][at] for name, at in zip(given.levels, levels, strict=True))
        for levels in itertools.product(*(range(len(values)) for values in given.levels.values()))
        if not given.violation(given.space.costs(Candidate(dict(zip(given.levels, levels, strict=True)))))
    ]
    return min(found)


SIZES = st.lists(st.integers(2, 4), min_size=2, max_size=5)


@settings(max_examples=25, deadline=None)
@example([3, 4, 4], 3, 0.9375)
@given(SIZES, st.integers(0, 2**16), st.floats(0.0, 1.0))
def test_equals_enumeration_where_costs_are_those_of_decisions_and_of_pairs(sizes: list[int], seed: int, share: float) -> None:
    given_problem = problem(sizes, seed, share)
    solution = MixedIntegerProgram(LevelEncoding(given_problem)).solve(())
    assert solution.loss == pytest.approx(least(given_problem), abs=1e-6)
    assert given_problem.violation(given_problem.space.costs(solution.candidate)) == 0.0
    assert solution.exact
    assert solution.gap == pytest.approx(0.0, abs=1e-9)
    assert solution.bound == pytest.approx(solution.loss, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.05, 0.95))
def test_costs_of_three_decisions_are_iterated_and_keep_the_targets(seed: int, share: float) -> None:
    given_problem = problem([3, 4, 3, 2], seed, share, three=True)
    encoding = LevelEncoding(given_problem)
    solution = MixedIntegerProgram(encoding).solve(())
    assert given_problem.violation(given_problem.space.costs(solution.candidate)) == 0.0
    assert least(given_problem) - 1e-6 <= solution.loss <= encoding.loss(encoding.smallest())


def test_few_of_the_answers_under_costs_of_three_decisions_are_behind_the_best() -> None:
    problems = [problem([3, 4, 3, 2], seed, 0.5, three=True) for seed in range(12)]
    found = [MixedIntegerProgram(LevelEncoding(one)).solve(()).loss - least(one) for one in problems]
    assert sum(behind < 1e-6 for behind in found) >= 8


def test_many_levels_are_first_chosen_from_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    given_problem = problem([9, 9, 9], 3, 0.5)
    whole = MixedIntegerProgram(LevelEncoding(given_problem)).solve(())
    monkeypatch.setattr(level_encoding, "MOST_PAIRS", 60)
    encoding = LevelEncoding(given_problem)
    strides = encoding.strides(("macs",))
    assert (strides[0] > 1, strides[-1]) == (True, 1)
    coarse = MixedIntegerProgram(encoding).solve(())
    assert given_problem.violation(given_problem.space.costs(coarse.candidate)) == 0.0
    assert whole.loss - 1e-6 <= coarse.loss <= whole.loss + 0.25


def test_channels_of_a_chain_are_chosen_exactly_and_a_front_falls() -> None:
    space = SyntheticSpace([4, 3, 4])
    given_problem = problem_of(space, 0.4)
    losses = {name: np.linspace(1.0, 0.0, len(values)).tolist() for name, values in given_problem.levels.items()}
    tables = {**given_problem.tables, "divergence": losses}
    full = Problem(space, [DIVERGENCE], given_problem.targets, tables)
    chosen = optimum(full)
    encoding = LevelEncoding(full)
    every = [Candidate(dict(zip(full.levels, levels, strict=True))) for levels in itertools.product(*full.levels.values())]
    best = min(encoding.loss(one) for one in every if full.violation(space.costs(one)) == 0.0)
    assert encoding.loss(chosen) == pytest.approx(best, rel=2e-3)
    front = IntegerProgram(Problem(space, [DIVERGENCE, MACS], full.targets, tables), IntegerProgramSettings(budgets=4), seed=0)
    assert [one.loss for one in front.solutions] == sorted(one.loss for one in front.solutions)
    assert set(front.notes["programmes"][0]) == {"fingerprint", "divergence", "bound", "gap", "exact", "limits"}


def test_a_table_that_is_missing_or_does_not_fit_is_an_error() -> None:
    given_problem = problem_of(SyntheticSpace([3]))
    with pytest.raises(SecateursError, match="expected 3 numbers in"):
        LevelEncoding(given_problem)
    tables = {**given_problem.tables, "divergence": {"layer0": [1.0]}}
    short = Problem(given_problem.space, [DIVERGENCE], given_problem.targets, tables)
    with pytest.raises(SecateursError, match="expected 3 numbers in"):
        optimum(short)
