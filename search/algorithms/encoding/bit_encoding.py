"""Choices of bits with their part in Omega and their costs, for the algorithms that search bit-widths by a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.algorithms.encoding.decision_blocks import DecisionBlock, Programmable, Programmed
from search.study.problem import Problem
from spaces.candidate import Candidate, Value
from spaces.domains import Domain
from spaces.errors import SecateursError

MOST_COMBINATIONS = 4096
"""Largest number of combinations of bits of the decisions of one layer."""


class NotABitSpaceError(SecateursError):
    """The space of an algorithm for bit-widths has other decisions, or there is no table of Omega."""


class BitEncoding(Programmable):
    """Decisions of one problem on bits, with their part in Omega and their costs.

    Attributes:
        names: Decision names, in graph order.
        options: Bits of each decision, ascending.
        table: Part of a decision in Omega, by decision and bits.
        targets: Targets on the analytic costs.
        metrics: Names of the analytic costs.
    """

    loss_name: ClassVar[str] = "omega"
    choice: ClassVar[str] = "choice of bits"

    def __init__(self, problem: Problem, given: Mapping[str, Value] | None = None) -> None:
        """Read the space's domains and the table of Omega.

        Args:
            problem: The problem.
            given: Values of the decisions that are fixed here, such as keep-masks.

        Raises:
            NotABitSpaceError: A domain is no choice of numbers of bits, or the tables have no Omega.
            UnreachableTargetError: The smallest candidate exceeds a target.
        """
        self.problem = problem
        self._given = dict(given or {})
        self.options = {n: _options(n, domain) for n, domain in problem.space.domains.items() if n not in self._given}
        self.names = list(self.options)
        table = problem.tables.get("omega")
        if table is None:
            raise NotABitSpaceError(
                "bits are chosen by their part in Omega, and it is not measured: expected `omega` in search.evaluate, such as "
                "evaluate: [{omega: {sensitivity: fisher}}, cost]"
            )
        if missing := [name for name in self.names if name not in table]:
            raise NotABitSpaceError(f"decision {missing[0]!r} has no part in Omega: this algorithm searches bit_width")
        self.table: dict[str, dict[int, float]] = {
            name: {int(bits): float(value) for bits, value in table[name].items()} for name in self.names
        }
        known = problem.space.costs(self.largest())
        self.targets = [target for target in problem.targets if target.metric in known]
        self.metrics = list(known)
        smallest = problem.space.costs(self.smallest())
        for target in self.targets:
            if smallest[target.metric] > target.limit:
                raise UnreachableTargetError(
                    f"the smallest candidate has {target.metric} = {smallest[target.metric]:g}; expected a target of at least "
                    f"that, got {target.limit:g}: raise it, or give the space fewer bits to choose from"
                )

    def largest(self) -> Candidate:
        """Return the candidate with the most bits everywhere."""
        return Candidate({**self._given, **{name: options[-1] for name, options in self.options.items()}})

    def smallest(self) -> Candidate:
        """Return the candidate with the fewest bits everywhere."""
        return Candidate({**self._given, **{name: options[0] for name, options in self.options.items()}})

    def omega(self, candidate: Candidate) -> float:
        """Return Omega of a candidate, by the table."""
        return sum(self.table[name][int(candidate.values[name])] for name in self.names)

    def loss(self, candidate: Candidate) -> float:
        """Return Omega of a candidate, by the table."""
        return self.omega(candidate)

    def program(
        self, metrics: Sequence[str], around: Candidate | None = None, stride: int = 1, near: bool = False
    ) -> Programmed:
        """Return all costs as sums over layers."""
        return Programmed(self.blocks(layers_of(self.problem)), (), self.problem.space.costs(self.smallest()))

    def load(self, costs: Mapping[str, float]) -> float:
        """Return the largest cost as a share of its target, at most 1 for a feasible candidate; 0 without targets."""
        return max((costs[target.metric] / target.limit for target in self.targets), default=0.0)

    def blocks(self, layers: Mapping[str, str]) -> list[DecisionBlock]:
        """Return the decisions in blocks, such that every cost is a sum over blocks.

        Args:
            layers: Layer by decision; decisions of one layer make a block.

        Raises:
            NotABitSpaceError: A cost is no sum over blocks, or a block has more than :data:`MOST_COMBINATIONS`.
        """
        base = self.smallest()
        start = self.problem.space.costs(base)
        members: dict[str, list[str]] = {}
        for name in self.names:
            members.setdefault(layers.get(name, name), []).append(name)
        found = [self._block(tuple(names), base, start) for names in members.values()]
        self._require_additive(found, start)
        return found

    def _block(self, names: tuple[str, ...], base: Candidate, start: Mapping[str, float]) -> DecisionBlock:
        if math.prod(len(self.options[name]) for name in names) > MOST_COMBINATIONS:
            raise NotABitSpaceError(
                f"the decisions {', '.join(names)} have too many combinations of bits for an exact search: expected at most "
                f"{MOST_COMBINATIONS}"
            )
        combinations = tuple(itertools.product(*(self.options[name] for name in names)))
        omega = [sum(self.table[n][bits] for n, bits in zip(names, chosen, strict=True)) for chosen in combinations]
        costs = [
            self.problem.space.costs(base.joined(Candidate(dict(zip(names, chosen, strict=True))))) for chosen in combinations
        ]
        above = {metric: np.array([cost[metric] - start[metric] for cost in costs]) for metric in self.metrics}
        return DecisionBlock(names, combinations, np.array(omega), above)

    def _require_additive(self, blocks: Sequence[DecisionBlock], start: Mapping[str, float]) -> None:
        """Raise NotABitSpaceError unless the costs of the largest and of a medium candidate are sums over blocks."""
        for position in (1.0, 0.5):
            chosen = [round(position * (len(block.combinations) - 1)) for block in blocks]
            costs = self.problem.space.costs(self.candidate(blocks, chosen))
            for metric in self.metrics:
                total = start[metric] + sum(block.costs[metric][at] for block, at in zip(blocks, chosen, strict=True))
                if not math.isclose(total, costs[metric], rel_tol=1e-9):
                    raise NotABitSpaceError(
                        f"{metric} is no sum over layers ({total:g} against {costs[metric]:g}): expected costs that are, for "
                        "an integer program; take optuna_sampler or progressive"
                    )

    def candidate(self, blocks: Sequence[DecisionBlock], chosen: Sequence[int]) -> Candidate:
        """Return the candidate of the ``chosen`` combination of every block."""
        values: dict[str, Value] = {}
        for block, at in zip(blocks, chosen, strict=True):
            values.update(zip(block.names, block.combinations[at], strict=True))
        return Candidate({**self._given, **{name: values[name] for name in self.names}})


def layers_of(problem: Problem) -> dict[str, str]:
    """Return the layer of each decision on bits; {} if the space does not say."""
    return {point.decision: point.layer for point in problem.space.quantizers}


def _options(name: str, domain: Domain) -> tuple[int, ...]:
    if not domain.numbers or not all(type(option) is int for option in domain.numbers):
        raise NotABitSpaceError(
            f"decision {name!r}: expected a choice of numbers of bits, got {domain.describe}; this algorithm searches bit_width"
        )
    return tuple(int(option) for option in domain.numbers)
