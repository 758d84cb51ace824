"""Genetic search over keep-masks: one objective under targets, or NSGA-II for a Pareto front."""

from __future__ import annotations

from collections.abc import Mapping

from search.algorithms.base import Algorithm
from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.genetics.individual import Fitness, Individual, select_survivors
from search.algorithms.genetics.racing import Race
from search.algorithms.genetics.reproduction import Reproduction
from search.algorithms.genetics.settings import GeneticSettings
from search.algorithms.ledger import Ledger
from search.study.pareto import gains, is_finite
from search.study.problem import Problem
from search.study.trial import Proposal, Trial


class GeneticAlgorithm(Algorithm[GeneticSettings]):
    """Genetic channel search (after Wang et al. 2020, doi 10.1016/j.neucom.2020.03.082; operators ours).

    The first generation contains the greedy masks (ours), so that the result is at least as good. Each generation is a list of
    new candidates, measured rung by rung (ours, see :class:`Race`); candidates measured in full compete with the survivors so
    far. All state follows from the settings, the seed and the trials told: the operators of generation ``g`` draw from a
    generator seeded by ``(seed, g)``, and results are kept by candidate and fidelity, so that trials may be told without
    being asked for.
    """

    Settings = GeneticSettings

    def __init__(self, problem: Problem, settings: GeneticSettings, seed: int) -> None:
        """Open the first generation."""
        super().__init__(problem, settings, seed)
        self._reproduction = Reproduction(ChannelEncoding(problem), settings, seed)
        # On a front one dominating candidate suffices to drop another; with one objective the best few set the pace.
        depth = 1 if len(problem.objectives) > 1 else max(settings.elite, settings.population // 8)
        self._race = Race(problem, settings.racing, depth, settings.elite) if settings.racing else None
        self._fidelities = (*settings.racing.fidelities, 1.0) if settings.racing else (1.0,)
        self._ledger = Ledger(settings.evaluations)
        self._population: list[Individual] = []
        self._generation = 0
        self._exhausted = False
        self._made: list[Individual] = []
        self._open_generation(self._reproduction.first())

    @classmethod
    def fewest_evaluations(cls, settings: GeneticSettings, trains: bool) -> tuple[int, str]:
        """Return the size of the first generation."""
        return settings.population, f"the population of {settings.population}, since the first generation has as many"

    def ask(self, limit: int) -> list[Proposal]:
        """Return at most ``limit`` proposals of the open rung."""
        return self._ledger.ask(limit)

    def tell(self, trial: Trial) -> None:
        """Record a trial; after the last of a rung, open the next rung or generation."""
        self._ledger.tell(trial)
        self._advance()

    @property
    def finished(self) -> bool:
        """True if the last generation is complete, the space exhausted, or all evaluations told."""
        return self._exhausted or self._ledger.spent

    @property
    def budget(self) -> int | None:
        """Number of evaluations, or of trials of all generations and rungs, whichever is smaller."""
        limits = [] if self._settings.evaluations is None else [self._settings.evaluations]
        if self._settings.generations is not None:
            candidates = self._settings.population + (self._settings.generations - 1) * self._children
            limits.append(candidates * len(self._fidelities))
        return min(limits, default=None)

    @property
    def _children(self) -> int:
        return self._settings.offspring or self._settings.population

    def _open_generation(self, made: list[Individual]) -> None:
        self._made = made
        self._reproduction.visited.update(one.fingerprint for one in self._made)
        self._exhausted = not self._made
        self._rung = 0
        self._open_rung(self._made)
        self._advance()

    def _open_rung(self, members: list[Individual]) -> None:
        self._members = members
        fidelity = self._fidelities[self._rung]
        # The best greedy masks are measured in full first, so that a search cut short has a result.
        at_once = members[: self._settings.elite] if self._generation == 0 and self._rung == 0 else []
        wanted = {(one.fingerprint, 1.0): Proposal(one.candidate) for one in at_once}
        wanted |= {(one.fingerprint, fidelity): Proposal(one.candidate, fidelity) for one in members}
        self._ledger.open(wanted)

    def _advance(self) -> None:
        while not self._ledger.waiting and not self._exhausted:
            fidelity = self._fidelities[self._rung]
            measured = [one for one in self._members if self._metrics(one, fidelity) is not None]
            if fidelity == 1.0:
                self._close_generation(measured)
                return
            members = measured
            if self._race:
                metrics = [self._measured(one, fidelity) for one in measured]
                going = {id(one) for one in self._race.promoted(fidelity, measured, metrics, self._population)}
                members = [one for one in measured if id(one) in going or (one.fingerprint, 1.0) in self._ledger.results]
            self._rung += 1
            self._open_rung(members)

    def _close_generation(self, measured: list[Individual]) -> None:
        for one in measured:
            full = self._measured(one, 1.0)
            one.fitness = Fitness(self._problem.violation({**one.exact, **full}), gains(full, self._problem))
            for fidelity in self._fidelities[:-1]:
                if self._race:
                    self._race.observe(fidelity, one, self._measured(one, fidelity), full)
        settings = self._settings
        self._population = select_survivors(self._population + measured, settings.population, settings.elite)
        alive = {one.fingerprint for one in self._population}
        self._reproduction.reward_operators(self._made, [one for one in measured if one.fingerprint in alive])
        self._generation += 1
        if self._generation == settings.generations:
            self._exhausted = True
            return
        self._open_generation(self._reproduction.next(self._generation, self._population, self._children))

    def _metrics(self, one: Individual, fidelity: float) -> Mapping[str, float] | None:
        """Return the metrics of a trial, None if it failed or an objective is not finite."""
        trial = self._ledger.results[one.fingerprint, fidelity]
        return trial.metrics if trial.state == "complete" and is_finite(trial.metrics, self._problem) else None

    def _measured(self, one: Individual, fidelity: float) -> Mapping[str, float]:
        return self._ledger.results[one.fingerprint, fidelity].metrics
