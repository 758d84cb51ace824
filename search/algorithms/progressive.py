"""Progressive quantization: lower bits step by step, each step the best of several random ones, with training in between."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from search.algorithms.base import Algorithm
from search.algorithms.encoding.bit_encoding import BitEncoding
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from spaces.errors import SecateursError

Indicator = Literal["per_saving", "equal_saving", "raw"]
Pick = Literal["uniform", "sensitivity"]

_REDRAWS = 20


@dataclass(frozen=True)
class ProgressiveSettings:
    """Options of progressive quantization.

    Attributes:
        candidates: Candidates per step (the patent's n).
        layers: Largest number of decisions that a candidate lowers, as a share of those that can be lowered; 0 for one. The
            source leaves the number open.
        indicator: Order of the candidates of a step: ``raw``, by Omega, the source's "sort n indicators, take the smallest";
            ``per_saving`` (ours), by rise of Omega per unit of cost saved; ``equal_saving`` (ours), by Omega among candidates
            lowered to the same cost.
        steps: Number of steps to the target, for ``equal_saving``.
        pick: Distribution of the drawn decisions: ``uniform``, the source's random choice, or ``sensitivity`` (ours), with a
            probability that falls with the rise of Omega per unit of cost saved by the table.
        refine: Number of steps at the end that raise some bits again and lower others within the target (ours).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    candidates: int = field(default=16, metadata={"small": 4})
    layers: float = field(default=0.1, metadata={"small": 0.3})
    indicator: Indicator = "per_saving"
    steps: int = 10
    pick: Pick = "sensitivity"
    refine: int = field(default=0, metadata={"small": 1})

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        if self.candidates < 1:
            raise ValueError(f"candidates: expected at least 1, got {self.candidates}")
        if not 0.0 <= self.layers <= 1.0:
            raise ValueError(f"layers: expected a share from 0 to 1, got {self.layers}")
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        if self.refine < 0:
            raise ValueError(f"refine: expected at least 0, got {self.refine}")


@dataclass(frozen=True)
class _State:
    """State of the loop after a step.

    Attributes:
        candidate: The bits chosen by the last step.
        omega: Measured Omega of the candidate.
        trial: Number of the trial that trained the candidate, None before the first training.
    """

    candidate: Candidate
    omega: float
    trial: int | None


class Progressive(Algorithm[ProgressiveSettings]):
    """The loop of CN112183742B: draw n candidates with lower bits in random layers, sort them by Omega, train the best, repeat.

    It starts from the most bits everywhere (8). A candidate is judged as a trial of fidelity 0: built from the weights of the
    last trained trial and measured once; Omega is computed on these weights. The best of a step is a trial of fidelity 1, which
    starts from the weights and optimizer moments of the last trained trial; without ``training`` it is only measured. The loop
    ends when the targets are met.

    Raw Omega, the source's order, always prefers the candidate with the smallest change; by default candidates are sorted by
    rise of Omega per unit of cost saved, and layers that cost little Omega are drawn more often (ours).
    """

    Settings = ProgressiveSettings

    def __init__(self, problem: Problem, settings: ProgressiveSettings, seed: int) -> None:
        """Start from the most bits everywhere.

        Raises:
            SecateursError: There is no target on a cost of the space.
        """
        super().__init__(problem, settings, seed)
        self._encoding = encoding = BitEncoding(problem)
        if not encoding.targets:
            raise SecateursError(
                "progressive lowers bits until a target is met: expected one on a cost such as size_bytes in search.target; "
                f"the space knows {', '.join(encoding.metrics)}"
            )
        self._trains = problem.trains
        self._rng = np.random.default_rng([seed, 3])
        start = encoding.largest()
        self._state = _State(start, math.nan, None)
        self._first_load = self._load(start)
        self._lowers = self._lowered_costs()
        self._chance = self._chances()
        # The proposals of the phase: all candidates of the step, or the one to train.
        self._waiting: list[Proposal] = [Proposal(start, 0.0 if self._trains else 1.0)]
        self._asked = 0
        self._told: list[Trial] = []
        self._ranked: list[Trial] = []
        self._phase: Literal["start", "judge", "train", "end"] = "start"
        self._refined = 0
        self._step = 0

    @classmethod
    def fewest_evaluations(cls, settings: ProgressiveSettings, trains: bool) -> tuple[int, str]:
        """Return the trials until the first training: start, candidates of a step and the best of them."""
        if not trains:
            return 1, "the start"
        return settings.candidates + 2, "the start, the candidates of one step and the best of them, trained"

    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals of the open phase."""
        first = self._asked
        self._asked = min(len(self._waiting), first + limit)
        return self._waiting[first : self._asked]

    def tell(self, trial: Trial) -> None:
        """Record a trial; after the last of a phase, open the next phase."""
        self._told.append(trial)
        self._asked = max(self._asked, len(self._told))
        if len(self._told) == len(self._waiting):
            self._advance()

    @property
    def finished(self) -> bool:
        """True if the targets are met and refined, or no candidate is left."""
        return self._phase == "end"

    @property
    def budget(self) -> int | None:
        """Number of trials if every step lowers one level of one decision."""
        levels = sum(len(options) - 1 for options in self._encoding.options.values())
        steps = self._settings.steps if self._settings.indicator == "equal_saving" else levels
        return 1 + (steps + self._settings.refine) * (self._settings.candidates + len(self._encoding.names))

    @property
    def warm_starts(self) -> Collection[int]:
        """Number of the last trained trial."""
        return () if self._state.trial is None or self.finished else (self._state.trial,)

    def _advance(self) -> None:
        """Open the next phase, after the last trial of this one."""
        told, self._told = self._told, []
        if self._phase == "start":
            start = self._state.candidate
            omega = _omega(told[0], self._encoding) if _measured(told[0]) else self._encoding.omega(start)
            self._state = _State(start, omega, None)
            if self._trains and self._load(start) <= 1.0:
                # After an earlier stage nothing may have to be lowered; the result is trained all the same.
                self._phase = "train"
                self._wait([Proposal(start, 1.0)])
            else:
                self._judge_next()
        elif self._phase == "judge":
            self._ranked = sorted((trial for trial in told if _measured(trial)), key=self._indicator)
            self._train_next()
        else:
            (trial,) = told
            if _measured(trial):
                kept = trial.number if self._trains else None
                self._state = _State(trial.proposal.candidate, _omega(trial, self._encoding), kept)
                self._judge_next()
            else:
                self._train_next()

    def _judge_next(self) -> None:
        """Draw the candidates of the next step, or end."""
        met = self._load(self._state.candidate) <= 1.0
        if met and self._refined >= self._settings.refine:
            self._end()
            return
        while not met and self._step < self._settings.steps - 1 and self._step_load() >= self._load(self._state.candidate):
            self._step += 1
        drawn: dict[str, Candidate] = {}
        for _ in range(_REDRAWS * self._settings.candidates):
            if len(drawn) == self._settings.candidates:
                break
            candidate = self._exchanged() if met else self._lowered()
            if candidate is not None and candidate.fingerprint != self._state.candidate.fingerprint:
                drawn.setdefault(candidate.fingerprint, candidate)
        self._step += not met
        self._refined += met
        if not drawn:
            self._end()
            return
        self._phase = "judge"
        self._wait([Proposal(candidate, 0.0, self._state.trial) for candidate in drawn.values()])

    def _train_next(self) -> None:
        """Train the best candidate of the step that has not failed; without one, end the search."""
        if not self._ranked:
            self._end()
            return
        best = self._ranked.pop(0)
        if self._refined and self._load(self._state.candidate) <= 1.0 and _omega(best, self._encoding) >= self._state.omega:
            self._judge_next()
            return
        self._phase = "train"
        self._wait([Proposal(best.proposal.candidate, 1.0, self._state.trial)])

    def _wait(self, proposals: list[Proposal]) -> None:
        self._waiting, self._asked, self._told = proposals, 0, []

    def _end(self) -> None:
        self._phase = "end"
        self._wait([])

    def _indicator(self, trial: Trial) -> tuple[float, float, int]:
        """Return the sort key of a trial; the smallest is the best."""
        rise = _omega(trial, self._encoding) - self._state.omega
        saved = self._cost(self._state.candidate) - self._cost(trial.proposal.candidate)
        if self._settings.indicator == "per_saving" and saved > 0.0:
            # If Omega falls, a larger saving is better too.
            value = rise / saved if rise > 0.0 else rise
            return (value, -saved, trial.number)
        return (rise, -saved, trial.number)

    def _lowered(self) -> Candidate | None:
        """Return the current bits with random decisions lowered, None if none can be."""
        values = self._bits()
        if self._settings.indicator == "equal_saving":
            return self._lowered_to(values, self._step_load())
        open_names = self._open(values)
        if not open_names:
            return None
        most = max(1, round(self._settings.layers * len(open_names)))
        for name in self._drawn(open_names, values, int(self._rng.integers(1, most + 1))):
            values[name] = self._below(name, values[name])
        return Candidate(values)

    def _lowered_to(self, values: dict[str, int], load: float) -> Candidate:
        """Lower random decisions of ``values`` until the load is at most ``load`` or none can be lowered."""
        while self._load(Candidate(values)) > load:
            open_names = self._open(values)
            if not open_names:
                break
            (name,) = self._drawn(open_names, values, 1)
            values[name] = self._below(name, values[name])
        return Candidate(values)

    def _exchanged(self) -> Candidate | None:
        """Return the current bits with random decisions raised and others lowered to the targets; None if impossible."""
        values = self._bits()
        higher = [name for name, bits in values.items() if bits < self._encoding.options[name][-1]]
        if not higher:
            return None
        for name in self._rng.choice(higher, size=int(self._rng.integers(1, min(3, len(higher) + 1))), replace=False):
            options = self._encoding.options[str(name)]
            values[str(name)] = options[options.index(values[str(name)]) + 1]
        found = self._lowered_to(values, 1.0)
        return found if self._load(found) <= 1.0 else None

    def _bits(self) -> dict[str, int]:
        """Return the current bits in graph order, in which the random draws choose."""
        return {name: int(self._state.candidate.values[name]) for name in self._encoding.names}

    def _drawn(self, names: list[str], values: Mapping[str, int], count: int) -> list[str]:
        """Draw ``count`` different decisions to lower."""
        weights = np.array([self._chance[name, values[name]] for name in names])
        chances = weights / weights.sum()
        return [str(name) for name in self._rng.choice(names, size=count, replace=False, p=chances)]

    def _chances(self) -> dict[tuple[str, int], float]:
        """Return the unnormalized probability of lowering a decision, by decision and number of bits."""
        rates: dict[tuple[str, int], float] = {}
        encoding, base = self._encoding, self._encoding.largest().values
        for name, options in encoding.options.items():
            for bits in options[1:]:
                less = self._below(name, bits)
                saved = self._cost(Candidate({**base, name: bits})) - self._cost(Candidate({**base, name: less}))
                rise = max(0.0, encoding.table[name][less] - encoding.table[name][bits])
                rates[name, bits] = rise / saved if saved > 0.0 else math.inf
        if self._settings.pick == "uniform":
            return dict.fromkeys(rates, 1.0)
        smallest = min((rate for rate in rates.values() if rate > 0.0), default=1.0)
        return {key: 1.0 / max(rate, smallest) if math.isfinite(rate) else 1e-30 for key, rate in rates.items()}

    def _open(self, values: Mapping[str, int]) -> list[str]:
        """Return the decisions that can be lowered and thereby reduce a cost above its target."""
        costs = self._encoding.problem.space.costs(Candidate(dict(values)))
        over = {target.metric for target in self._encoding.targets if costs[target.metric] > target.limit}
        return [name for name, bits in values.items() if bits > self._encoding.options[name][0] and self._lowers[name] & over]

    def _lowered_costs(self) -> dict[str, set[str]]:
        """Return, by decision, the costs with a target that lowering it reduces."""
        encoding, most = self._encoding, self._encoding.largest()
        before = encoding.problem.space.costs(most)
        found = {}
        for name, options in encoding.options.items():
            after = encoding.problem.space.costs(Candidate({**most.values, name: options[0]}))
            found[name] = {target.metric for target in encoding.targets if after[target.metric] < before[target.metric]}
        return found

    def _below(self, name: str, bits: int) -> int:
        options = self._encoding.options[name]
        return options[options.index(bits) - 1]

    def _step_load(self) -> float:
        """Return the load at the end of this step: evenly spaced from the start's to 1, the target."""
        share = min(1.0, (self._step + 1) / self._settings.steps)
        return max(1.0, self._first_load + share * (1.0 - self._first_load))

    def _load(self, candidate: Candidate) -> float:
        return self._encoding.load(self._encoding.problem.space.costs(candidate))

    def _cost(self, candidate: Candidate) -> float:
        """Return the sum of the costs as shares of their targets, each at least 1."""
        costs = self._encoding.problem.space.costs(candidate)
        return sum(max(1.0, costs[target.metric] / target.limit) for target in self._encoding.targets)


def _measured(trial: Trial) -> bool:
    return trial.state == "complete" and all(math.isfinite(value) for value in trial.metrics.values())


def _omega(trial: Trial, encoding: BitEncoding) -> float:
    """Return the measured Omega of a trial, else that of the table."""
    return float(trial.metrics.get("omega", encoding.omega(trial.proposal.candidate)))
