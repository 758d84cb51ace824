"""Individuals of the genetic search and their selection by DEAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from deap import base, tools

from search.algorithms.encoding.channel_encoding import Masks
from search.algorithms.genetics.deap_draws import deap_draws_from
from spaces.candidate import Candidate


class Fitness(base.Fitness):  # type: ignore[misc]
    """Constraint domination (Deb 2002) as a DEAP fitness: less violation first, then the gains.

    ``values`` is ``(-violation, gain, ...)``; comparison is lexicographic, domination is by Pareto among equals in
    violation.
    """

    weights: Sequence[float]

    def __init__(self, violation: float, gains: Sequence[float]) -> None:
        """Set the values to ``(-violation, gain, ...)``, with a weight of 1 each."""
        self.weights = (1.0,) * (1 + len(gains))
        super().__init__((-violation, *gains))
        self.crowding_dist = 0.0

    def dominates(self, other: Any, obj: slice = slice(None)) -> bool:
        """Return whether this violates less than ``other``, or equally little and dominates it by Pareto."""
        if self.wvalues[0] != other.wvalues[0]:
            return bool(self.wvalues[0] > other.wvalues[0])
        return bool(super().dominates(other, obj))

    def __deepcopy__(self, memo: dict[int, Any]) -> Fitness:
        """Return an independent copy."""
        copied = Fitness(-self.wvalues[0], self.wvalues[1:])
        copied.crowding_dist = self.crowding_dist
        return copied


class Individual(list[Any]):
    """A genome in DEAP's sense, one gene per layer, with the candidate it encodes.

    Genes are masks (``mask`` encoding) or thresholds (``factor`` encoding).

    Attributes:
        masks: The repaired masks that the genes encode.
        candidate: The candidate with these masks.
        exact: Analytic costs of the candidate.
        origins: Names of the operators that made it, for :class:`OperatorSelection`.
        fitness: Fitness as measured in full, None before.
    """

    def __init__(
        self, genes: Sequence[Any], masks: Masks, candidate: Candidate, exact: dict[str, float], origins: Sequence[str] = ()
    ) -> None:
        """Keep the genes as list items; the fitness is measured later."""
        super().__init__(genes)
        self.masks = masks
        self.candidate = candidate
        self.exact = exact
        self.origins = tuple(origins)
        self.fitness: Fitness | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the candidate."""
        return self.candidate.fingerprint


def select_survivors(pool: list[Individual], count: int, elite: int) -> list[Individual]:
    """Select at most ``count`` survivors of the measured ``pool``, best first.

    With one objective, the best; with several, by NSGA-II (Deb 2002), the ``elite`` best by first objective included.
    """
    ordered = best_first(pool)
    if len(ordered) <= count or not _several(ordered):
        return ordered[:count]
    chosen = tools.selNSGA2(ordered, count)
    sure = ordered[:elite]
    sure_ids = {id(individual) for individual in sure}
    rest = [individual for individual in chosen if id(individual) not in sure_ids]
    return best_first(sure + rest[: count - len(sure)])


def select_parents(population: list[Individual], count: int, tournament: int, rng: np.random.Generator) -> list[Individual]:
    """Select ``count`` parents, with repetition, by tournament; with several objectives by NSGA-II's crowded tournament."""
    with deap_draws_from(rng):
        if len(population) < 4 or not _several(population):
            return list(tools.selTournament(population, count, tournsize=tournament))
        for rank in tools.sortNondominated(population, len(population)):
            tools.emo.assignCrowdingDist(rank)
        batch = len(population) - len(population) % 4
        parents: list[Individual] = []
        while len(parents) < count:
            parents.extend(tools.selTournamentDCD(population, batch))
        return parents[:count]


def best_first(pool: Sequence[Individual]) -> list[Individual]:
    """Return the measured ``pool`` by falling fitness; ties by fingerprint, so that the order of ``pool`` does not matter."""
    return sorted(
        pool, key=lambda one: (() if one.fitness is None else tuple(-v for v in one.fitness.wvalues), one.fingerprint)
    )


def _several(pool: Sequence[Individual]) -> bool:
    fitness = pool[0].fitness
    return fitness is not None and len(fitness.weights) > 2
