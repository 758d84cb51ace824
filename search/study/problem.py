"""Problem of an algorithm: a space, objectives and limits on costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evaluators.base import Direction
from spaces.base import SearchSpace
from spaces.candidate import Candidate, Value
from spaces.levels.levels import Levels


@dataclass(frozen=True)
class Objective:
    """A metric to be made as large or as small as possible."""

    metric: str
    direction: Direction

    def gain(self, metrics: Mapping[str, float]) -> float:
        """Return the metric with the sign that makes larger better."""
        return metrics[self.metric] if self.direction == "maximize" else -metrics[self.metric]


@dataclass(frozen=True)
class Target:
    """An upper limit on a cost, in the metric's unit."""

    metric: str
    limit: float

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return the share by which the limit is exceeded, 0 where it is kept."""
        return max(0.0, metrics[self.metric] / self.limit - 1.0)


def within_reach(target: Target, space: SearchSpace[Any]) -> Target:
    """Return ``target``, or the cost of the smallest candidate where that exceeds it."""
    smallest = space.cheapest()
    lowest = space.costs(smallest).get(target.metric, 0.0) if smallest is not None else 0.0
    return Target(target.metric, max(target.limit, lowest))


@dataclass(frozen=True)
class Problem:
    """Space, objectives and limits that an algorithm is made from, beside its settings and its seed.

    Attributes:
        space: The open decisions; its ``costs`` are analytic.
        objectives: One metric to optimize, or several for a Pareto front.
        targets: Upper limits on a candidate's costs.
        tables: Importance, sensitivity and costs, computed once by the search stage (``importance``: by decision name,
            one value per coupled channel).
        trains: Whether candidates are trained; then a trial can go on from the end of another.
        starts: Candidates to try first, such as the constants of a paper.
    """

    space: SearchSpace[Any]
    objectives: Sequence[Objective]
    targets: Sequence[Target]
    tables: Mapping[str, Any]
    trains: bool = False
    starts: Sequence[Candidate] = ()

    @cached_property
    def levels(self) -> Levels:
        """Levels of every decision, the cheapest first, those of keep-masks in the order of the table ``importance``.

        Raises:
            NoLevelsError: A decision has no levels.
            SecateursError: The importance of a keep-mask is missing or does not fit.
        """
        return self.space.leveled(self.tables.get("importance", {}))

    @cached_property
    def caps(self) -> list[Target]:
        """Limits that the space itself sets, such as a largest number of removed branches."""
        return [Target(metric, limit) for metric, limit in self.space.limits.items()]

    def smallest(self) -> dict[str, Value]:
        """Return the cheapest level of every decision, as far as the limits of the space allow."""
        levels, cheapest = self.levels, self.space.cheapest() if self.caps else None
        found = {name: values[0] for name, values in levels.items()}
        if cheapest is not None:
            found |= {name: one for name, one in cheapest.values.items() if one in levels[name]}
        return found

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return the summed relative excess over all targets, 0 for a feasible candidate."""
        return sum(target.violation(metrics) for target in self.targets)
