"""Baselines over ordered choices, such as bits: the same for every layer, or drawn at random, at the cost of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.study.problem import Problem
from spaces.candidate import Candidate, Value
from spaces.domains import Choice
from spaces.errors import SecateursError
from spaces.ordinal import OrdinalSpace


class LevelAllocation:
    """Choices of a problem's space as steps of a ladder each, and their cost.

    Args:
        problem: A problem whose decisions are all choices of ascending numbers that cost more the higher they are.
        given: Values of decisions that are something else, such as keep-masks.

    Raises:
        SecateursError: A decision is something else, and not given.
    """

    def __init__(self, problem: Problem, given: Mapping[str, Value] | None = None) -> None:
        self.options: dict[str, Sequence[Value]] = {}
        self._given = dict(given or {})
        for name, domain in problem.space.domains.items():
            if name in self._given:
                continue
            if not isinstance(domain, Choice):
                raise SecateursError(f"decision {name!r} is {domain.describe}; expected a choice of numbers, such as bits")
            self.options[name] = domain.options
        self._problem = problem
        known = problem.space.costs(self.candidate(self.smallest()))
        self._targets = [target for target in problem.targets if target.metric in known]

    @staticmethod
    def fits(problem: Problem) -> bool:
        """Whether every decision of the problem is a choice of numbers, the larger the dearer."""
        domains = problem.space.domains.values()
        if isinstance(problem.space, OrdinalSpace):
            return False
        return all(isinstance(domain, Choice) and not isinstance(domain.options[0], str) for domain in domains)

    @property
    def constrained(self) -> bool:
        """Whether there is a target on a cost that the space knows."""
        return bool(self._targets)

    def smallest(self) -> dict[str, int]:
        """Return the lowest step of every decision."""
        return dict.fromkeys(self.options, 0)

    def candidate(self, steps: dict[str, int]) -> Candidate:
        """Return the candidate with these steps."""
        return Candidate({**self._given, **{name: self.options[name][step] for name, step in steps.items()}})

    def fits_targets(self, steps: dict[str, int]) -> bool:
        """Whether these steps keep the targets that the space knows the costs of."""
        costs = self._problem.space.costs(self.candidate(steps)) if self._targets else {}
        return all(costs[target.metric] <= target.limit for target in self._targets)

    def load(self, steps: dict[str, int]) -> float:
        """Return the largest share of a target that these steps take; 0 without a target."""
        costs = self._problem.space.costs(self.candidate(steps)) if self._targets else {}
        return max((costs[target.metric] / target.limit for target in self._targets), default=0.0)

    def fill(self, steps: dict[str, int], order: Sequence[str]) -> dict[str, int]:
        """Return ``steps`` raised, one step at a time in rounds over ``order``, as long as the targets are kept."""
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
    """Return the candidate that gives every weight the same number, and every activation, at or just under the targets.

    Of all pairs that keep the targets, the one with the largest cost; what whole steps leave of the budget is filled up in
    graph order.

    Args:
        problem: The problem.
        given: Values of the decisions that are no such choices.

    Raises:
        SecateursError: There is no target on a cost that the space knows.
        UnreachableTargetError: Nothing keeps the targets.
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
    """Draw a step for every decision; random ones are lowered until the targets are kept, and raised while they are."""
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
    """Return the highest step at or below ``wanted``, or the lowest."""
    return max((index for index, option in enumerate(options) if float(option) <= wanted), default=0)
