"""Levels of any space with their divergence and their costs, for an exact program."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.algorithms.encoding.decision_blocks import DecisionBlock, PairCosts, Programmable, Programmed
from search.study.problem import Problem
from spaces.candidate import Candidate
from spaces.errors import SecateursError

MOST_PAIRS = 200_000
"""Most pairs of levels of decisions that depend on each other; above it, coarser levels are chosen from first."""

ASKED = 8
"""Levels of each of two decisions at which both are asked for, to find out whether they depend on each other."""

Levels = dict[str, int]
"""Level of every decision, 0 the cheapest."""


class LevelEncoding(Programmable):
    """Levels of one problem's decisions, with the divergence of each alone and with their costs.

    Costs are asked of the space: they may be any function of the levels. What two decisions cost together above what each costs
    alone is found by asking for both at levels spread over their range.

    Attributes:
        levels: Levels of every decision, the cheapest first.
    """

    loss_name: ClassVar[str] = "divergence"
    choice: ClassVar[str] = "choice of levels"

    def __init__(self, problem: Problem) -> None:
        """Read the levels and the table of their divergence.

        Raises:
            SecateursError: A decision has no levels, the divergence of a level is not known, or the space brings all candidates
                to one budget.
            UnreachableTargetError: The smallest candidate exceeds a target.
        """
        self.problem = problem
        self.levels = problem.levels
        if problem.space.budgeted:
            raise SecateursError(
                "this space brings every candidate to one budget, so that costs say nothing of its levels: expected a space "
                "without one for an integer program, such as filter_ratio without macs"
            )
        table = problem.tables.get("divergence")
        for name, values in self.levels.items():
            if table is None or len(table.get(name, ())) != len(values):
                raise SecateursError(
                    f"an integer program adds up the divergence of every level alone: expected {len(values)} numbers in "
                    f"tables['divergence'][{name!r}]; the search stage measures them"
                )
        self._losses = {name: np.asarray(table[name], dtype=np.float64) for name in self.levels} if table else {}
        smallest = problem.space.costs(self.smallest())
        self.metrics = list(smallest)
        self.targets = [target for target in problem.targets if target.metric in smallest]
        self.caps = problem.caps
        for target in self.targets:
            if smallest[target.metric] > target.limit:
                raise UnreachableTargetError(
                    f"the smallest candidate has {target.metric} = {smallest[target.metric]:g}; expected a target of at least "
                    f"that, got {target.limit:g}: {problem.space.target_remedy}"
                )

    def smallest(self) -> Candidate:
        """Return the candidate of the cheapest levels."""
        return Candidate(self.problem.smallest())

    def largest(self) -> Candidate:
        """Return the candidate of the costliest levels."""
        return Candidate({name: values[-1] for name, values in self.levels.items()})

    def loss(self, candidate: Candidate) -> float:
        """Return the sum of the divergence that each level has alone."""
        return float(sum(self._losses[name][at] for name, at in self._levels_of(candidate).items()))

    def strides(self, metrics: Sequence[str]) -> Sequence[int]:
        """Return falling powers of two down to 1, the first such that a program has at most :data:`MOST_PAIRS` pairs."""
        most = max(len(values) for values in self.levels.values())
        some = {name: _spread(range(len(values))) for name, values in self.levels.items()}
        base = dict.fromkeys(self.levels, 0)
        pairs = [(one.first, one.second) for one in self._pairs(metrics, base, some)]
        stride = 1
        while stride < most:
            sizes = [len(one) for one in self._allowed(base, stride, near=False).values()]
            if sum(sizes[first] * sizes[second] for first, second in pairs) <= MOST_PAIRS:
                break
            stride *= 2
        return [2**power for power in range(stride.bit_length() - 1, -1, -1)]

    def program(
        self, metrics: Sequence[str], around: Candidate | None = None, stride: int = 1, near: bool = False
    ) -> Programmed:
        """Return the costs ``metrics`` as sums over decisions and pairs of them."""
        base = self._levels_of(self.smallest() if around is None else around)
        if around is None:
            # Beside a part that is gone, other levels cost nothing.
            base |= {part.name: len(self.levels[part.name]) - 1 for part in self.problem.space.removable}
        allowed = self._allowed(base, stride, near)
        start, alone = self._alone(metrics, base, allowed)
        blocks = []
        for name, places in allowed.items():
            above = dict(zip(metrics, (alone[name] - start).T, strict=True))
            combinations = tuple((self.levels[name][at],) for at in places)
            blocks.append(DecisionBlock((name,), combinations, self._losses[name][places], above))
        return Programmed(blocks, self._pairs(metrics, base, allowed), dict(zip(metrics, start.tolist(), strict=True)))

    def candidate(self, blocks: Sequence[DecisionBlock], chosen: Sequence[int]) -> Candidate:
        """Return the candidate of the ``chosen`` level of every decision."""
        return Candidate({block.names[0]: block.combinations[at][0] for block, at in zip(blocks, chosen, strict=True)})

    def _allowed(self, base: Levels, stride: int, near: bool) -> dict[str, list[int]]:
        """Return the levels of every decision to choose from: that of ``base``, and those at ``stride``, or these near it."""
        found = {}
        for name, values in self.levels.items():
            every = {0, *range(len(values) - 1, -1, -stride)}
            found[name] = sorted({base[name], *(at for at in every if not near or abs(at - base[name]) <= 2 * stride)})
        return found

    def _pairs(self, metrics: Sequence[str], base: Levels, allowed: Mapping[str, Sequence[int]]) -> list[PairCosts]:
        """Return the costs of every two decisions that depend on each other, above those of both alone."""
        start, alone = self._alone(metrics, base, allowed)
        scale = np.maximum(np.abs(start), np.max([np.abs(one).max(0) for one in alone.values()], axis=0))
        names, found = list(allowed), []

        def together(first: str, second: str, some: bool) -> np.ndarray:
            rows, columns = list(range(len(allowed[first]))), list(range(len(allowed[second])))
            if some:
                rows, columns = _spread(rows), _spread(columns)
            both = [{**base, first: allowed[first][a], second: allowed[second][b]} for a in rows for b in columns]
            costs = self._costs(metrics, both).reshape(len(rows), len(columns), len(metrics))
            above: np.ndarray = costs - alone[first][rows][:, None] - alone[second][columns][None] + start
            return above

        for first, second in itertools.combinations(range(len(names)), 2):
            if (np.abs(together(names[first], names[second], some=True)) > 1e-9 * scale).any():
                costs = together(names[first], names[second], some=False)
                found.append(PairCosts(first, second, {metric: costs[:, :, at] for at, metric in enumerate(metrics)}))
        return found

    def _alone(
        self, metrics: Sequence[str], base: Levels, allowed: Mapping[str, Sequence[int]]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the costs of ``base``, and of every decision's allowed levels with the others as there."""
        changed = [base, *({**base, name: at} for name, places in allowed.items() for at in places)]
        costs = self._costs(metrics, changed)
        borders = np.cumsum([1, *(len(places) for places in allowed.values())])
        return costs[0], dict(zip(allowed, np.split(costs, borders)[1:-1], strict=True))

    def _costs(self, metrics: Sequence[str], levels: Sequence[Levels]) -> np.ndarray:
        """Return the costs of several choices of levels, of shape ``(choices, metrics)``."""
        candidates = [Candidate({name: self.levels[name][at] for name, at in one.items()}) for one in levels]
        found = self.problem.space.costs_of(candidates)
        return np.array([[costs[metric] for metric in metrics] for costs in found], dtype=np.float64)

    def _levels_of(self, candidate: Candidate) -> Levels:
        return {name: values.index(candidate.values[name]) for name, values in self.levels.items()}


def _spread(places: Sequence[int]) -> list[int]:
    """Return at most :data:`ASKED` of ``places``, evenly spread, both ends among them."""
    last = len(places) - 1
    return sorted({places[round(last * at / (ASKED - 1))] for at in range(ASKED)})
