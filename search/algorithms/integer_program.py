"""Integer programming: find the levels, such as bits or channels, of the least loss by a table under the targets, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from search.algorithms.base import Algorithm
from search.algorithms.encoding.bit_encoding import BitEncoding, NotABitSpaceError
from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.algorithms.encoding.decision_blocks import Programmable, Programmed
from search.algorithms.encoding.level_encoding import LevelEncoding
from search.study.problem import Problem, Target
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from spaces.errors import SecateursError

ROUNDS = 8
"""Most programs that are solved for costs that are no sums, and for limits that rounding exceeds."""
BASELINE_GAP, BASELINE_NODES = 1e-3, 20_000
"""Relative gap and number of branch-and-bound nodes at which the program of a baseline may end (ours)."""


@dataclass(frozen=True)
class IntegerProgramSettings:
    """Options of the integer program.

    Attributes:
        budgets: Number of budgets of a front, with a cost among the objectives; the first is the target.
        gap: Relative optimality gap at which a program may end; 0 solves it exactly.
        nodes: Largest number of branch-and-bound nodes of a program, None for no limit; the remaining gap is reported.
        seconds: Longest time of a program, None for no limit; the remaining gap is reported. Where a program is cut off depends
            on the machine: prefer ``gap`` and ``nodes`` for a run that must end the same everywhere.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    budgets: int = field(default=12, metadata={"small": 6})
    gap: float = 0.0
    nodes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        if self.budgets < 1:
            raise ValueError(f"budgets: expected at least 1, got {self.budgets}")
        if not 0.0 <= self.gap < 1.0:
            raise ValueError(f"gap: expected a share from 0 to below 1, got {self.gap}")
        if self.nodes is not None and self.nodes < 1:
            raise ValueError(f"nodes: expected at least 1, got {self.nodes}")
        if self.seconds is not None and not self.seconds > 0.0:
            raise ValueError(f"seconds: expected a number above 0, got {self.seconds}")


@dataclass(frozen=True)
class Solution:
    """Solution of one program.

    Attributes:
        candidate: The levels that were chosen.
        loss: Loss of the candidate by the table.
        bound: Loss below which no candidate that keeps the limits has been proven to be.
        gap: Relative distance to the bound.
        exact: True if the costs are the sums of the program; else those of more than two decisions were taken as they are
            around the candidate, and the bound is one of that.
        limits: Limits of the program, by metric, in the unit of each.
    """

    candidate: Candidate
    loss: float
    bound: float
    gap: float
    exact: bool
    limits: Mapping[str, float]


class IntegerProgram(Algorithm[IntegerProgramSettings]):
    """Proposes the levels of least loss by a table, under the targets (for bits: HAWQ-V3, Yao et al. 2021, arXiv 2011.10680).

    For bits the loss is Omega, where it is measured: a sum over decisions, as every cost is a sum over layers, so that with a
    binary variable for every combination of a layer's bits both are linear, bit operations included. For the levels of any
    other space it is the sum of the divergence that each level has alone, and the costs of a layer between two channel groups
    are linear in a variable for every pair of their levels (ours). ``scipy.optimize.milp`` (HiGHS) solves the program. With a
    cost among the objectives, it is solved again at budgets down to the smallest network's (the Pareto front of the table).
    """

    Settings = IntegerProgramSettings

    def __init__(self, problem: Problem, settings: IntegerProgramSettings, seed: int) -> None:
        """Solve all programs; the seed is not used.

        Raises:
            SecateursError: There is neither a target on a cost of the space nor a cost among the objectives.
            UnreachableTargetError: No allocation keeps the targets.
        """
        super().__init__(problem, settings, seed)
        self._encoding = encoding = programmable(problem)
        swept = [one.metric for one in problem.objectives if one.direction == "minimize" and one.metric in encoding.metrics]
        if not encoding.targets and not swept:
            raise SecateursError(
                f"integer_program minimizes {encoding.loss_name} under a budget: expected a target on a cost such as "
                f"size_bytes, or a cost among the objectives; the space knows {', '.join(encoding.metrics)}"
            )
        self._program = MixedIntegerProgram(encoding, settings)
        self.solutions = self._program.sweep(swept[0], settings.budgets) if swept else [self._program.solve(())]
        self._asked = 0
        self._told = 0

    @classmethod
    def reads_divergence(cls, settings: IntegerProgramSettings) -> bool:
        """Return True: it is the loss of levels that are no bits."""
        return True

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
        """``programmes``: ``fingerprint``, ``omega`` or ``divergence``, ``bound``, ``gap``, ``exact``, ``limits`` of each."""
        return {
            "programmes": [
                {
                    "fingerprint": one.candidate.fingerprint,
                    self._encoding.loss_name: one.loss,
                    "bound": one.bound,
                    "gap": one.gap,
                    "exact": one.exact,
                    "limits": dict(one.limits),
                }
                for one in self.solutions
            ]
        }


class MixedIntegerProgram:
    """The integer program of one problem.

    Args:
        encoding: Decisions, losses, costs and targets.
        settings: Gap, number of nodes and time; exact by default.
    """

    def __init__(self, encoding: Programmable, settings: IntegerProgramSettings | None = None) -> None:
        """Keep both; losses and costs of every combination are asked for once."""
        self._encoding = encoding
        self._settings = settings or IntegerProgramSettings()
        self._made: dict[tuple[tuple[str, ...], str, int, bool], Programmed] = {}

    def solve(self, limits: Sequence[Target]) -> Solution:
        """Return the candidate of least loss under the targets and ``limits``.

        Where a cost is no sum over decisions and pairs of them, it is taken as it is around the last solution, and the program
        solved again, for as long as that finds better ones.

        Raises:
            UnreachableTargetError: No candidate keeps all of them.
            SecateursError: The solver ends without an answer.
        """
        asked = [*self._encoding.targets, *self._encoding.caps, *limits]
        metrics = tuple(dict.fromkeys(target.metric for target in asked))
        best: Solution | None = None
        for number, stride in enumerate(self._encoding.strides(metrics)):
            best = self._best(asked, metrics, best, stride, near=number > 0)
        if best is None:
            raise SecateursError("the integer program exceeds its limits by rounding: expected limits that are not this narrow")
        return best

    def _best(
        self, asked: Sequence[Target], metrics: tuple[str, ...], best: Solution | None, stride: int, near: bool
    ) -> Solution | None:
        """Return the best solution from ``best`` and those of the programs at one distance between values."""
        encoding, tightened = self._encoding, [target.limit for target in asked]
        around = None if best is None else best.candidate
        for _ in range(ROUNDS):
            program = self._program(metrics, around, stride, near)
            try:
                chosen, bound, gap = self._solved(program, asked, tightened)
            except UnreachableTargetError:
                if best is None and around is None:
                    raise
                break
            candidate = encoding.candidate(program.blocks, chosen)
            costs = encoding.problem.space.costs(candidate)
            exact = all(math.isclose(program.predicted(one, chosen), costs[one], rel_tol=1e-9) for one in metrics)
            excess = [max(0.0, costs[target.metric] - target.limit) for target in asked]
            if not any(excess):
                limits = {target.metric: target.limit for target in asked}
                found = Solution(candidate, encoding.loss(candidate), bound, gap, exact, limits)
                if best is not None and best.candidate != candidate and best.loss <= found.loss:
                    break
                best = found
                if exact:
                    break
            elif exact or candidate == around:
                # The solver keeps limits to a relative 1e-7 only.
                tightened = [limit - 2.0 * over for limit, over in zip(tightened, excess, strict=True)]
            around = around if exact else candidate
        if best is None and around is not None:
            smallest = encoding.smallest()
            best = Solution(smallest, encoding.loss(smallest), 0.0, 1.0, False, {one.metric: one.limit for one in asked})
        return best

    def _program(self, metrics: tuple[str, ...], around: Candidate | None, stride: int, near: bool) -> Programmed:
        key = metrics, "" if around is None else around.fingerprint, stride, near
        if key not in self._made:
            self._made[key] = self._encoding.program(metrics, around, stride, near)
        return self._made[key]

    def sweep(self, metric: str, budgets: int) -> list[Solution]:
        """Return the distinct solutions at evenly spaced limits of a cost, from the largest allowed to the least possible."""
        lowest = self._encoding.problem.space.costs(self._encoding.smallest())[metric]
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

    def _solved(self, program: Programmed, asked: Sequence[Target], limits: Sequence[float]) -> tuple[list[int], float, float]:
        """Solve with the given ``limits`` and return the index of each block's combination, the bound, and the gap."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        sizes = [len(block.combinations) for block in program.blocks]
        owners = np.repeat(np.arange(len(sizes)), sizes)
        binary = int(sum(sizes))
        variables = binary + sum(one.size for one in program.pairs)
        one_each = csr_array((np.ones(binary), (owners, np.arange(binary))), shape=(len(sizes), variables))
        constraints = [LinearConstraint(one_each, 1.0, 1.0)]
        if program.pairs:
            constraints.append(LinearConstraint(_marginals(program, sizes, variables), 0.0, 0.0))
        for target, limit in zip(asked, limits, strict=True):
            parts = [*(block.costs[target.metric] for block in program.blocks)]
            row = np.concatenate([*parts, *(one.costs[target.metric].ravel() for one in program.pairs)])
            row, most = _scaled(row, limit - program.start[target.metric])
            constraints.append(LinearConstraint(row[None, :], -np.inf, most))
        losses = np.concatenate([block.losses for block in program.blocks])
        # HiGHS ends at an absolute gap of 1e-6, which must be small against the loss.
        scale = sum(float(block.losses.max()) for block in program.blocks) / 1e5
        scale = scale if scale > 0.0 else 1.0
        found = milp(
            np.concatenate([losses / scale, np.zeros(variables - binary)]),
            integrality=np.arange(variables) < binary,
            bounds=Bounds(0.0, 1.0),
            constraints=constraints,
            options={
                "mip_rel_gap": self._settings.gap,
                **({"node_limit": self._settings.nodes} if self._settings.nodes else {}),
                **({"time_limit": self._settings.seconds} if self._settings.seconds else {}),
            },
        )
        if found.status == 2:
            reachable = ", ".join(f"{target.metric} <= {target.limit:g}" for target in asked)
            raise UnreachableTargetError(f"no {self._encoding.choice} keeps all of {reachable}; raise one of them")
        if found.x is None:
            raise SecateursError(
                f"the integer program has no answer ({found.message.strip()}); raise algorithm.nodes or algorithm.seconds"
            )
        positions = np.split(found.x[:binary], np.cumsum(sizes)[:-1])
        bound = float(found.mip_dual_bound) * scale if found.mip_dual_bound is not None else 0.0
        return [int(part.argmax()) for part in positions], bound, max(0.0, float(found.mip_gap or 0.0))


def _marginals(program: Programmed, sizes: Sequence[int], variables: int) -> Any:
    """Return the rows by which the variables of a pair of blocks sum up to those of either, of shape ``(rows, variables)``."""
    from scipy.sparse import csr_array

    begins = np.concatenate([[0], np.cumsum(sizes)])
    values, rows, columns, row, column = [], [], [], 0, int(begins[-1])
    for one in program.pairs:
        width, height = sizes[one.first], sizes[one.second]
        places = column + np.arange(width * height).reshape(width, height)
        for begin, grid in ((begins[one.first], places), (begins[one.second], places.T)):
            count, others = grid.shape
            rows += [np.repeat(np.arange(row, row + count), others), np.arange(row, row + count)]
            columns += [grid.ravel(), np.arange(begin, begin + count)]
            values += [np.ones(grid.size), -np.ones(count)]
            row += count
        column += width * height
    return csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(row, variables))


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


def programmable(problem: Problem) -> Programmable:
    """Return the levels of a problem by the table that is known of them: divergence where it was measured, else Omega.

    Raises:
        SecateursError: Neither fits the space.
    """
    return LevelEncoding(problem) if "divergence" in problem.tables else BitEncoding(problem)


def optimum(problem: Problem) -> Candidate:
    """Return the candidate of the integer program under the targets: a baseline, and a start for other searches.

    Raises:
        SecateursError: There is no target on a cost of the space, or its levels have no table.
        UnreachableTargetError: No candidate keeps the targets.
    """
    encoding = programmable(problem)
    if not encoding.targets:
        raise SecateursError("a baseline needs a target to be compared at: set search.target to a cost of the space")
    return MixedIntegerProgram(encoding, IntegerProgramSettings(gap=BASELINE_GAP, nodes=BASELINE_NODES)).solve(()).candidate


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
