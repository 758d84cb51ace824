"""Integer programming: find the allocation of bits with the least Omega under the targets, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from search.algorithms.base import Algorithm
from search.algorithms.encoding.bit_encoding import BitEncoding, NotABitSpaceError, layers_of
from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.study.problem import Problem, Target
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from spaces.errors import SecateursError


@dataclass(frozen=True)
class IntegerProgramSettings:
    """Options of the integer program.

    Attributes:
        budgets: Number of budgets of a front, with a cost among the objectives; the first is the target.
        gap: Relative optimality gap at which a program may end; 0 solves it exactly.
        nodes: Largest number of branch-and-bound nodes of a program, None for no limit; the remaining gap is reported.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    budgets: int = field(default=12, metadata={"small": 6})
    gap: float = 0.0
    nodes: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        if self.budgets < 1:
            raise ValueError(f"budgets: expected at least 1, got {self.budgets}")
        if not 0.0 <= self.gap < 1.0:
            raise ValueError(f"gap: expected a share from 0 to below 1, got {self.gap}")
        if self.nodes is not None and self.nodes < 1:
            raise ValueError(f"nodes: expected at least 1, got {self.nodes}")


@dataclass(frozen=True)
class Solution:
    """Solution of one program.

    Attributes:
        candidate: The allocation.
        omega: Omega of the allocation by the table.
        gap: Relative distance to the proven bound.
        limits: Limits of the program, by metric, in the unit of each.
    """

    candidate: Candidate
    omega: float
    gap: float
    limits: Mapping[str, float]


class IntegerProgram(Algorithm[IntegerProgramSettings]):
    """Proposes the bits of least Omega under the targets (HAWQ-V3, Yao et al. 2021, arXiv 2011.10680).

    Omega is a sum over decisions and every cost a sum over layers, so that with a binary variable for every combination of a
    layer's bits both are linear, bit operations included. ``scipy.optimize.milp`` (HiGHS) solves the program. With a cost
    among the objectives, it is solved again at budgets down to the smallest network's (the Pareto front of the table).
    """

    Settings = IntegerProgramSettings

    def __init__(self, problem: Problem, settings: IntegerProgramSettings, seed: int) -> None:
        """Solve all programs; the seed is not used.

        Raises:
            SecateursError: There is neither a target on a cost of the space nor a cost among the objectives.
            UnreachableTargetError: No allocation keeps the targets.
        """
        super().__init__(problem, settings, seed)
        self._encoding = encoding = BitEncoding(problem)
        swept = [one.metric for one in problem.objectives if one.direction == "minimize" and one.metric in encoding.metrics]
        if not encoding.targets and not swept:
            raise SecateursError(
                "integer_program minimizes Omega under a budget: expected a target on a cost such as size_bytes, or a cost "
                f"among the objectives; the space knows {', '.join(encoding.metrics)}"
            )
        self._program = MixedIntegerProgram(encoding, settings)
        self.solutions = self._program.sweep(swept[0], settings.budgets) if swept else [self._program.solve(())]
        self._asked = 0
        self._told = 0

    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` of the solutions not returned yet."""
        first = self._asked
        self._asked = min(len(self.solutions), first + limit)
        return [Proposal(solution.candidate) for solution in self.solutions[first : self._asked]]

    def tell(self, trial: Trial) -> None:
        """Count a finished trial."""
        self._told += 1
        self._asked = max(self._asked, self._told)

    @property
    def finished(self) -> bool:
        """True if a trial of every solution was told."""
        return self._told >= len(self.solutions)

    @property
    def budget(self) -> int | None:
        """Number of solutions."""
        return len(self.solutions)

    @property
    def notes(self) -> Mapping[str, Any]:
        """``programmes``: ``fingerprint``, ``omega``, ``gap`` and ``limits`` of each solution."""
        return {
            "programmes": [
                {"fingerprint": one.candidate.fingerprint, "omega": one.omega, "gap": one.gap, "limits": dict(one.limits)}
                for one in self.solutions
            ]
        }


class MixedIntegerProgram:
    """The integer program of one problem.

    Args:
        encoding: Decisions, Omega, costs and targets.
        settings: Gap and number of nodes; exact by default.
    """

    def __init__(self, encoding: BitEncoding, settings: IntegerProgramSettings | None = None) -> None:
        """Compute Omega and costs of every combination of a layer's bits."""
        self._encoding = encoding
        self._settings = settings or IntegerProgramSettings()
        self._blocks = encoding.blocks(layers_of(encoding.problem))
        self._start = encoding.problem.space.costs(encoding.smallest())

    def solve(self, limits: Sequence[Target]) -> Solution:
        """Return the allocation of least Omega under the targets and ``limits``.

        Raises:
            UnreachableTargetError: No allocation keeps all of them.
            SecateursError: The solver ends without an answer.
        """
        asked = [*self._encoding.targets, *limits]
        tightened = [target.limit for target in asked]
        # The solver keeps limits to a relative 1e-7 only.
        for _ in range(8):
            chosen, gap = self._solved(asked, tightened)
            candidate = self._encoding.candidate(self._blocks, chosen)
            costs = self._encoding.problem.space.costs(candidate)
            excess = [max(0.0, costs[target.metric] - target.limit) for target in asked]
            if not any(excess):
                return Solution(
                    candidate, self._encoding.omega(candidate), gap, {target.metric: target.limit for target in asked}
                )
            tightened = [limit - 2.0 * over for limit, over in zip(tightened, excess, strict=True)]
        raise SecateursError("the integer program exceeds its limits by rounding: expected limits that are not this narrow")

    def sweep(self, metric: str, budgets: int) -> list[Solution]:
        """Return the distinct solutions at evenly spaced limits of a cost, from the largest allowed to the least possible."""
        lowest = self._start[metric]
        whole = self._encoding.problem.space.costs(self._encoding.largest())[metric]
        limits = [target.limit for target in self._encoding.targets if target.metric == metric]
        highest = min([whole, *limits])
        found: dict[str, Solution] = {}
        for share in np.linspace(1.0, 0.0, budgets) if budgets > 1 else [1.0]:
            budget = Target(metric, lowest + float(share) * (highest - lowest))
            try:
                solution = self.solve([budget])
            except UnreachableTargetError:
                if not found:
                    raise
                # Other targets may be out of reach before the smallest network is.
                continue
            found.setdefault(solution.candidate.fingerprint, solution)
        return list(found.values())

    def _solved(self, asked: Sequence[Target], limits: Sequence[float]) -> tuple[list[int], float]:
        """Solve with the given ``limits`` and return the index of each block's combination, and the gap."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        sizes = [len(block.combinations) for block in self._blocks]
        owners = np.repeat(np.arange(len(sizes)), sizes)
        variables = int(sum(sizes))
        one_each = csr_array((np.ones(variables), (owners, np.arange(variables))), shape=(len(sizes), variables))
        constraints = [LinearConstraint(one_each, 1.0, 1.0)]
        for target, limit in zip(asked, limits, strict=True):
            row = np.concatenate([block.costs[target.metric] for block in self._blocks])
            row, most = _scaled(row, limit - self._start[target.metric])
            constraints.append(LinearConstraint(row[None, :], -np.inf, most))
        omega = np.concatenate([block.omega for block in self._blocks])
        # HiGHS ends at an absolute gap of 1e-6, which must be small against Omega.
        scale = sum(float(block.omega.max()) for block in self._blocks) / 1e5
        found = milp(
            omega / (scale if scale > 0.0 else 1.0),
            integrality=np.ones(variables),
            bounds=Bounds(0.0, 1.0),
            constraints=constraints,
            options={
                "mip_rel_gap": self._settings.gap,
                **({"node_limit": self._settings.nodes} if self._settings.nodes else {}),
            },
        )
        if found.status == 2:
            reachable = ", ".join(f"{target.metric} <= {target.limit:g}" for target in asked)
            raise UnreachableTargetError(f"no choice of bits keeps all of {reachable}; raise one of them")
        if found.x is None:
            raise SecateursError(f"the integer program has no answer ({found.message.strip()}); raise algorithm.nodes")
        positions = np.split(found.x, np.cumsum(sizes)[:-1])
        return [int(part.argmax()) for part in positions], max(0.0, float(found.mip_gap or 0.0))


def _scaled(row: NDArray[np.float64], limit: float) -> tuple[NDArray[np.float64], float]:
    """Scale a constraint ``row @ x <= limit`` on binary ``x`` to small numbers.

    Integers are divided by their greatest common divisor, and the limit is moved half-way between two possible sums, so that
    no solution lies on it.
    """
    if np.all(row == np.round(row)) and float(np.abs(row).sum()) < 2.0**53:
        divisor = math.gcd(*(int(value) for value in row)) or 1
        return row / divisor, math.floor(limit / divisor) + 0.5
    scale = max(float(np.abs(row).max()), 1e-300)
    return row / scale, limit / scale


def allocations(problem: Problem, budgets: int = 5) -> list[Candidate]:
    """Return the integer program's optima at several budgets, as starting points of a sampler; [] without a choice of bits.

    The budgets limit the cost of the first target (``size_bytes`` without one), from the target down to half-way to the
    smallest network's cost.
    """
    try:
        encoding = BitEncoding(problem)
    except NotABitSpaceError:
        return []
    metric = encoding.targets[0].metric if encoding.targets else "size_bytes"
    if metric not in encoding.metrics:
        return []
    solutions = MixedIntegerProgram(encoding).sweep(metric, 2 * budgets - 1)
    return [solution.candidate for solution in solutions[:budgets]]
