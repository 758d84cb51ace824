"""Optuna's samplers over any space: TPE, NSGA-II and Gaussian processes, with successive halving for one objective."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from search.algorithms.base import Algorithm
from search.algorithms.encoding.parameters import parameters_of
from search.algorithms.halving import HalvingSettings
from search.algorithms.ledger import Ledger
from search.study.pareto import gains, is_finite, violation
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.errors import SecateursError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial as OptunaTrial

SamplerName = Literal["tpe", "nsga2", "gp", "random"]
_DRAWS = 64
_PATIENCE = {"tpe": 32, "nsga2": 32, "gp": 4, "random": 64}
"""Attempts of a sampler to draw a new candidate before a random one is drawn; few for the slow Gaussian process."""


@dataclass(frozen=True)
class OptunaSamplerSettings:
    """Options of Optuna's samplers.

    Attributes:
        sampler: ``tpe`` (tree-structured Parzen estimator, Bergstra et al. 2011; Watanabe 2023, arXiv 2304.11127), ``nsga2``
            (Deb et al. 2002, doi 10.1109/4235.996017), ``gp`` (a Gaussian process), or ``random``.
        evaluations: Number of trials, of all rungs.
        batch: Number of candidates drawn together, before any of them is measured.
        startup: Number of random candidates before ``tpe`` or ``gp`` uses a model.
        population: Size of a generation of ``nsga2``.
        halving: Successive halving, for one objective and ``tpe`` or ``random``; None trains every candidate to the end.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    sampler: SamplerName = "tpe"
    evaluations: int = field(default=64, metadata={"small": 27})
    batch: int = 8
    startup: int = 10
    population: int = 16
    halving: HalvingSettings | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        for name, least in (("evaluations", 1), ("batch", 1), ("startup", 1), ("population", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.halving is not None and self.sampler not in ("tpe", "random"):
            raise ValueError(
                f"halving: expected sampler tpe, which learns from candidates that did not go on; got {self.sampler}"
            )
        if self.halving is not None and self.evaluations < self.bracket:
            raise ValueError(
                f"evaluations: expected at least {self.bracket}, for a batch of {self.batch} with its rungs of "
                f"{list(self.halving.rungs(self.batch))} trials, got {self.evaluations}"
            )

    @property
    def bracket(self) -> int:
        """Largest number of trials of a batch over all rungs."""
        return sum(self.halving.rungs(self.batch)) if self.halving is not None else self.batch


class OptunaSampler(Algorithm[OptunaSamplerSettings]):
    """Draws candidates in batches by one of Optuna's samplers.

    A batch is drawn after all trials of the previous one are told; every draw has a new sampler, seeded by (seed, number of
    the candidate, attempt), over all trials and the candidates of the batch so far. No candidate is drawn twice, and one
    whose analytic cost exceeds a target is drawn anew. The starting points of the problem come first.

    With halving, a batch is first trained to the lowest fidelity, and the best continue from there, rung by rung. A rung is
    told completely before the next is opened, so that the result does not depend on the speed of the workers.
    """

    Settings = OptunaSamplerSettings

    def __init__(self, problem: Problem, settings: OptunaSamplerSettings, seed: int) -> None:
        """Draw the first batch.

        Raises:
            SecateursError: Halving with several objectives, or no candidate keeps the targets.
        """
        import optuna

        super().__init__(problem, settings, seed)
        if settings.halving is not None and len(problem.objectives) > 1:
            raise SecateursError(
                f"halving compares candidates by one objective, got {[o.metric for o in problem.objectives]}: remove it, or "
                "all but one of the objectives (a target can take the place of one)"
            )
        self._parameters = parameters_of(problem)
        self._fidelities = (*(settings.halving.fidelities if settings.halving is not None else ()), 1.0)
        optuna_level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [objective.direction for objective in problem.objectives]
        self._study = optuna.create_study(directions=list(directions), sampler=self._sampler(0, 0))
        optuna.logging.set_verbosity(optuna_level)
        self._starts = list({one.fingerprint: one for one in problem.starts}.values())
        self._seen: set[str] = set()
        self._ledger = Ledger(settings.evaluations)
        self._rung = 0
        self._drawn: dict[str, OptunaTrial] = {}
        self._members: list[Candidate] = []
        self._exhausted = False
        self._open_batch()
        if self._exhausted:
            limits = ", ".join(f"{target.metric} <= {target.limit:g}" for target in problem.targets)
            raise SecateursError(
                f"no candidate of this space keeps the targets ({limits}) by the costs known beforehand: raise them, or "
                "open more of the space"
            )

    @classmethod
    def fewest_evaluations(cls, settings: OptunaSamplerSettings, trains: bool) -> tuple[int, str]:
        """Return the size of a batch over all rungs with halving, else 1."""
        return (settings.bracket, "one batch with all its rungs") if settings.halving is not None else (1, "one candidate")

    @classmethod
    def random_control(
        cls, settings: OptunaSamplerSettings, space: SearchSpace[Any], evaluations: int
    ) -> tuple[str, Mapping[str, Any]]:
        """Return the random sampler with the rungs of ``settings``; random search in a space of channels."""
        if any(domain.channels for domain in space.domains.values()):
            return super().random_control(settings, space, evaluations)
        alike = vars(settings) if evaluations >= settings.bracket else {}
        return "optuna", {**alike, "evaluations": evaluations, "sampler": "random"}

    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals of the open rung."""
        return self._ledger.ask(limit)

    def tell(self, trial: Trial) -> None:
        """Record a trial; after the last of a rung, open the next rung or batch."""
        self._ledger.tell(trial)
        while not self._ledger.waiting and not self._exhausted:
            self._advance()

    @property
    def warm_starts(self) -> Collection[int]:
        """Numbers of the trials that members of the open or next rung continue."""
        starts = {proposal.warm_start for proposal in self._ledger.queue.values()}
        if self._rung + 1 < len(self._fidelities):
            told = [self._ledger.results.get((one.fingerprint, self._fidelities[self._rung])) for one in self._members]
            starts |= {trial.number for trial in told if trial is not None}
        if self._rung > 0 and self._ledger.waiting:
            before = self._fidelities[self._rung - 1]
            starts |= {self._ledger.results[one.fingerprint, before].number for one in self._members}
        return {number for number in starts if number is not None}

    @property
    def finished(self) -> bool:
        """True if all evaluations were told, or no new candidate is found."""
        return self._exhausted or self._ledger.spent

    @property
    def budget(self) -> int | None:
        """Number of evaluations in the settings."""
        return self._settings.evaluations

    def _open_batch(self) -> None:
        settings = self._settings
        if settings.halving is not None and self._ledger.begun + settings.bracket > settings.evaluations:
            self._exhausted = True  # Too few evaluations are left for a batch with all its rungs.
            return
        self._drawn, self._members = {}, []
        while len(self._members) < settings.batch:
            candidate = self._draw()
            if candidate is None:
                break
            self._members.append(candidate)
        self._exhausted = not self._members
        self._open_rung(0, {})

    def _open_rung(self, rung: int, starts: Mapping[str, int]) -> None:
        self._rung, fidelity = rung, self._fidelities[rung]
        wanted = {(one.fingerprint, fidelity): self._proposal(one, starts) for one in self._members}
        self._ledger.open(wanted)

    def _proposal(self, candidate: Candidate, starts: Mapping[str, int]) -> Proposal:
        start = starts.get(candidate.fingerprint) if self._problem.trains else None
        return Proposal(candidate, self._fidelities[self._rung], start)

    def _advance(self) -> None:
        """Close a complete rung: its best go on, or the sampler learns what the batch came to."""
        fidelity, halving = self._fidelities[self._rung], self._settings.halving
        ranked = sorted(
            (one for one in self._members if self._counts(self._ledger.results[one.fingerprint, fidelity])),
            key=lambda one: self._order(self._ledger.results[one.fingerprint, fidelity]),
        )
        if halving is None or self._rung + 1 == len(self._fidelities) or not ranked:
            self._learn()
            self._open_batch()
            return
        going = {one.fingerprint for one in ranked[: halving.promoted(len(ranked))]}
        self._members = [one for one in self._members if one.fingerprint in going]
        self._open_rung(self._rung + 1, {print_: self._ledger.results[print_, fidelity].number for print_ in going})

    def _learn(self) -> None:
        """Tell Optuna's study the results of the batch, in the order of drawing."""
        from optuna.trial import TrialState

        for fingerprint, drawn in self._drawn.items():
            reached = [fidelity for fidelity in self._fidelities if (fingerprint, fidelity) in self._ledger.results]
            trial = self._ledger.results[fingerprint, reached[-1]]
            if not self._counts(trial):
                self._study.tell(drawn, state=TrialState.FAIL)
                continue
            if self._problem.targets:
                drawn.set_constraint("target", violation(trial, self._problem))
            values = [trial.metrics[objective.metric] for objective in self._problem.objectives]
            if reached[-1] == 1.0:
                self._study.tell(drawn, values)
            else:
                drawn.report(values[0], step=len(reached))
                self._study.tell(drawn, state=TrialState.PRUNED)

    def _draw(self) -> Candidate | None:
        """Return a new candidate that keeps the analytic targets, None if none is found."""
        from optuna.trial import TrialState

        while self._starts:
            candidate = self._starts.pop(0)
            if self._is_new(candidate):
                return self._take(candidate)
        number = len(self._seen)
        for attempt in range(_DRAWS):
            # A sampler that repeats candidates, or draws infeasible ones, is replaced by random draws.
            self._study.sampler = self._sampler(number, attempt, random=attempt >= _PATIENCE[self._settings.sampler])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drawn = self._study.ask(dict(self._parameters.distributions))
            candidate = self._parameters.candidate(drawn.params)
            if self._is_new(candidate):
                self._seen.add(candidate.fingerprint)
                self._drawn[candidate.fingerprint] = drawn
                return candidate
            self._study.tell(drawn, state=TrialState.FAIL)
        for candidate in self._parameters.enumerate():
            if self._is_new(candidate):
                return self._take(candidate)
        # If almost no candidate keeps the targets, random draws miss them all.
        smallest = self._problem.space.cheapest()
        return self._take(smallest) if smallest is not None and self._is_new(smallest) else None

    def _take(self, candidate: Candidate) -> Candidate:
        """Return ``candidate``, recorded in the study as if the sampler had drawn it."""
        self._study.sampler = self._sampler(len(self._seen), 0, random=True)
        self._study.enqueue_trial(self._parameters.values(candidate))
        self._seen.add(candidate.fingerprint)
        self._drawn[candidate.fingerprint] = self._study.ask(dict(self._parameters.distributions))
        return candidate

    def _is_new(self, candidate: Candidate) -> bool:
        if candidate.fingerprint in self._seen or self._problem.space.excess(candidate) > 0.0:
            return False
        costs = self._problem.space.costs(candidate)
        return all(target.violation(costs) == 0.0 for target in self._problem.targets if target.metric in costs)

    def _counts(self, trial: Trial) -> bool:
        return trial.state == "complete" and is_finite(trial.metrics, self._problem)

    def _order(self, trial: Trial) -> tuple[float, ...]:
        return (violation(trial, self._problem), *(-gain for gain in gains(trial.metrics, self._problem)), trial.number)

    def _sampler(self, number: int, attempt: int, random: bool = False) -> BaseSampler:
        from optuna import samplers

        settings, name = self._settings, "random" if random else self._settings.sampler
        seed = int(np.random.SeedSequence([self._seed, number, attempt]).generate_state(1, np.uint32)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "tpe":
                return samplers.TPESampler(seed=seed, n_startup_trials=settings.startup, multivariate=True)
            if name == "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=settings.startup)
            if name == "nsga2":
                return samplers.NSGAIISampler(seed=seed, population_size=settings.population)
            return samplers.RandomSampler(seed=seed)
