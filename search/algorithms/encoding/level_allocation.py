"""Baselines over ordered choices, such as bits: uniform over the layers, or random, at the cost of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.study.problem import Problem
from spaces.candidate import Candidate, Value
from spaces.errors import SecateursError


class LevelAllocation:
    """Levels of the choices of a problem, and their costs.

    Args:
        problem: A problem whose decisions are choices among ascending numbers, of which a higher one costs more.
        given: Values of the decisions that are fixed here, such as keep-masks.
    """

    def __init__(self, problem: Problem, given: Mapping[str, Value] | None = None) -> None:
        """Read the space's domains.

        Raises:
            SecateursError: A decision is no choice, and not given.
        """
        self.options: dict[str, Sequence[Value]] = {}
        self._given = dict(given or {})
        for name, domain in problem.space.domains.items():
            if name in self._given:
                continue
            if not domain.choices:
                raise SecateursError(f"decision {name!r} is {domain.describe}; expected a choice of numbers, such as bits")
            self.options[name] = domain.choices
        self._problem = problem
        known = problem.space.costs(self.candidate(self.smallest()))
        self._targets = [target for target in problem.targets if target.metric in known]

    @staticmethod
    def fits(problem: Problem, given: Mapping[str, Value] | None = None) -> bool:
        """Return whether every decision of the problem is a choice among numbers such as bits, or given."""
        fixed = given or {}
        parts = {part.name for part in problem.space.removable} - fixed.keys()
        if problem.space.levels is not None or parts:
            return False
        domains = [domain for name, domain in problem.space.domains.items() if name not in fixed]
        return all(domain.choices and not isinstance(domain.choices[0], str) for domain in domains)

    @property
    def constrained(self) -> bool:
        """True if there is a target on an analytic cost."""
        return bool(self._targets)

    def smallest(self) -> dict[str, int]:
        """Return the lowest level, 0, of every decision."""
        return dict.fromkeys(self.options, 0)

    def candidate(self, steps: dict[str, int]) -> Candidate:
        """Return the candidate with the level ``steps[name]`` of each decision."""
        return Candidate({**self._given, **{name: self.options[name][step] for name, step in steps.items()}})

    def fits_targets(self, steps: dict[str, int]) -> bool:
        """Return whether these levels keep the targets on analytic costs."""
        costs = self._problem.space.costs(self.candidate(steps)) if self._targets else {}
        return all(costs[target.metric] <= target.limit for target in self._targets)

    def load(self, steps: dict[str, int]) -> float:
        """Return the largest cost as a share of its target; 0 without a target."""
        costs = self._problem.space.costs(self.candidate(steps)) if self._targets else {}
        return max((costs[target.metric] / target.limit for target in self._targets), default=0.0)

    def fill(self, steps: dict[str, int], order: Sequence[str]) -> dict[str, int]:
        """Return ``steps`` raised by one level at a time, in rounds over ``order``, while the targets are kept."""
        steps, rising = dict(steps), list(order)
        while rising:
            left = []
            for name in rising:
                if steps[name] + 1 < len(self.options[name]):
                    steps[name] += 1
                    if self.fits_targets(steps):
                        left.append(name)
                    else:
                        steps[name] -= 1
            rising = left
        return steps


def uniform_allocation(problem: Problem, given: Mapping[str, Value] | None = None) -> Candidate:
    """Return the candidate with the same number for all weights, and for all activations, at or just under the targets.

    Of the pairs of numbers that keep the targets, the one of largest cost; the rest of the budget is filled in graph order.

    Args:
        problem: The problem.
        given: Values of the decisions that are fixed here.

    Raises:
        SecateursError: There is no target on an analytic cost.
        UnreachableTargetError: No pair keeps the targets.
    """
    allocation = LevelAllocation(problem, given)
    if not allocation.constrained:
        raise SecateursError("a baseline needs a target to be compared at: set search.target to a cost of the space")
    kinds = {name: name.endswith(".weight") for name in allocation.options}
    levels = [
        sorted({float(v) for n, o in allocation.options.items() if kinds[n] == weight for v in o}) for weight in (True, False)
    ]
    best: tuple[float, float, dict[str, int]] | None = None
    for weights in levels[0] or [0.0]:
        for activations in levels[1] or [0.0]:
            steps = {
                name: _step(options, weights if kinds[name] else activations) for name, options in allocation.options.items()
            }
            load = allocation.load(steps)
            if load <= 1.0 and (best is None or (load, weights) > best[:2]):
                best = load, weights, steps
    if best is None:
        raise UnreachableTargetError("even the fewest bits everywhere exceed a target of search.target; raise it")
    return allocation.candidate(allocation.fill(best[2], list(allocation.options)))


def random_levels(allocation: LevelAllocation, rng: np.random.Generator) -> Candidate:
    """Draw a level for every decision, lower random ones until the targets are kept, and raise random ones while they are."""
    steps = {name: int(rng.integers(len(options))) for name, options in allocation.options.items()}
    names = list(steps)
    while not allocation.fits_targets(steps):
        lowerable = [name for name in names if steps[name] > 0]
        if not lowerable:
            break
        steps[lowerable[int(rng.integers(len(lowerable)))]] -= 1
    return allocation.candidate(
        allocation.fill(steps, [names[index] for index in rng.permutation(len(names))]) if allocation.constrained else steps
    )


def _step(options: Sequence[Value], wanted: float) -> int:
    """Return the index of the highest option at or below ``wanted``, 0 if none is."""
    return max((index for index, option in enumerate(options) if float(option) <= wanted), default=0)
