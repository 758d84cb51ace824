"""Genomes of levels, one gene per decision, and switches between them that keep the budget."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.study.problem import Problem
from spaces.candidate import Candidate, Value

Genome = NDArray[np.int64]
"""Place of every decision's value among its levels, the cheapest first, shape ``(decisions,)``."""

LARGEST_STEP = 4
"""Most levels that a switch raises a unit by; smaller steps are likelier (ours)."""


class LevelGenome:
    """Genomes of a problem: their candidates, their costs against the targets, and their neighbours.

    Args:
        problem: A problem with levels.
        encoding: The same problem as masks, which knows its targets on analytic costs.
    """

    def __init__(self, problem: Problem, encoding: ChannelEncoding) -> None:
        self._problem, self._targets, self.budgeted = problem, encoding.targets, encoding.budgeted
        self._capped, self._parted = bool(problem.caps), bool(problem.space.removable)
        self._names = list(problem.levels)
        self._levels = [problem.levels[name] for name in self._names]
        self._tops = np.array([len(levels) - 1 for levels in self._levels])
        self._open = np.flatnonzero(self._tops > 0)
        self._sizes = [np.array([_size(value) for value in levels]) for levels in self._levels]

    def candidate(self, genome: Genome) -> Candidate:
        """Return the candidate of a genome."""
        return Candidate(
            {name: self._levels[place][gene] for place, (name, gene) in enumerate(zip(self._names, genome, strict=True))}
        )

    def _idle(self, genome: Genome) -> NDArray[np.int64]:
        """Return the places of the decisions that change nothing, since the part that they are about is gone."""
        idle = self._problem.space.idle(self.candidate(genome)) if self._parted else ()
        return np.array([place for place, name in enumerate(self._names) if name in idle], dtype=np.int64)

    def genome(self, candidate: Candidate) -> Genome:
        """Return the genome of a candidate; of a value between two levels the nearest one, of two the cheaper."""
        found = np.zeros(len(self._names), dtype=np.int64)
        for place, name in enumerate(self._names):
            value, levels = candidate.values[name], self._levels[place]
            exact = [gene for gene, level in enumerate(levels) if level == value]
            found[place] = exact[0] if exact else int(np.abs(self._sizes[place] - _size(value)).argmin())
        return found

    def fits(self, levels: object) -> bool:
        """Return True for a list, such as one from a record, that has a level of every decision."""
        if not isinstance(levels, list) or len(levels) != len(self._tops):
            return False
        return all(type(level) is int and 0 <= level <= top for level, top in zip(levels, self._tops, strict=True))

    def excess(self, genome: Genome) -> float:
        """Return the summed shares by which costs exceed their targets and the space's own limits, 0 within the budget."""
        candidate = self.candidate(genome) if self._targets or self._capped else None
        if candidate is None:
            return 0.0
        costs = self._problem.space.costs(candidate) if self._targets else {}
        return sum(target.violation(costs) for target in self._targets) + self._problem.space.excess(candidate)

    def child(self, parent: Genome, rng: np.random.Generator, switches: int) -> Genome:
        """Return a genome that is some switches away from ``parent``, within the budget where that is to be reached.

        A switch raises one unit, and lowers others, drawn at random, until the budget holds; at the end units that were not
        touched are raised where there is room.

        Args:
            parent: The genome to start from.
            rng: Draws.
            switches: Most switches; their number is the smaller of two draws (EvoPress, arXiv 2410.14649, section 3).
        """
        genome, touched = parent.copy(), set[int]()
        for _ in range(min(int(number) for number in rng.integers(1, switches + 1, size=2))):
            before = genome.copy()
            idle = set(self._idle(genome).tolist())
            rising = [
                int(place)
                for place in self._open
                if genome[place] < self._tops[place] and place not in touched and int(place) not in idle
            ]
            if not rising:
                break
            up = rising[int(rng.integers(len(rising)))]
            step = min(int(number) for number in rng.integers(1, LARGEST_STEP + 1, size=2))
            genome[up] = min(genome[up] + step, self._tops[up])
            touched.add(up)
            lowered = self._lower(genome, rng, touched)
            if lowered is None:
                genome = before
                continue
            touched |= lowered
        if self._targets:
            self._fill(genome, rng.permutation(self._open), touched)
        # Of one network there is one genome.
        idle_now = self._idle(genome)
        genome[idle_now] = self._tops[idle_now]
        return genome

    def _lower(self, genome: Genome, rng: np.random.Generator, but: set[int]) -> set[int] | None:
        """Lower units in place until the budget holds, at least one without targets; return them, None where it can't be."""
        lowered, excess = set[int](), self.excess(genome)
        falling = [int(place) for place in self._open if genome[place] > 0 and int(place) not in but]
        while excess > 0.0 or not (self._targets or lowered):
            if not falling:
                return None
            down = falling[int(rng.integers(len(falling)))]
            genome[down] -= 1
            left = self.excess(genome)
            if self._targets and left >= excess:
                # It costs nothing of what is exceeded.
                genome[down] += 1
                falling.remove(down)
                continue
            lowered.add(down)
            excess = left
            if genome[down] == 0:
                falling.remove(down)
        return lowered

    def _fill(self, genome: Genome, order: Iterable[int], touched: set[int]) -> None:
        for place in order:
            if int(place) not in touched and genome[place] < self._tops[place]:
                genome[place] += 1
                if self.excess(genome) > 0.0:
                    genome[place] -= 1


def _size(value: Value) -> float:
    """Return a number that grows with the level: kept channels of a mask, else the number itself."""
    return float(value.count("1")) if isinstance(value, str) else float(value)
