"""A score as the budget: the smallest network that keeps it, by bisection over the budget of the integer program (ours)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from evaluators.metrics import find_metric
from evaluators.tasks.measure import measure_with_errors
from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.algorithms.integer_program import optimum
from search.config.block import ScoreLimit
from search.run.network import Network
from search.run.stage_run import StageRun
from search.stages.search.context import SearchContext
from search.stages.search.finalists import Finalist, train_finalists
from search.stages.search.settings import SearchSettings
from search.stages.search.targets import reference_value
from search.study.problem import Problem, Target
from search.study.study import Study, check_replay
from search.study.trial import Proposal, Trial
from spaces.base import Solve
from spaces.candidate import Candidate
from spaces.errors import SecateursError

T = TypeVar("T")

TOLERANCE = 0.01
"""Share of its own cost to which the budget of the network is found; twice as much less is tried at last."""


@dataclass
class Bisection:
    """Search for the smallest network that keeps a limit on a score, each step solved or trained, then judged.

    A step is judged by its score on the search split, and recorded as one trial; a resumed search reads these trials.

    Attributes:
        context: The search.
        settings: Its settings, with one limit on a score.
        run_of_stage: Resources of the stage.
        study: Record of the steps.
        solving: Returns what solves the layers of a proposal's network; None for nothing.
        trials: Steps so far.
        note: Account for the report: metric and limit of the budget that was found, and the steps.
        target: Row of the target for the report.
    """

    context: SearchContext
    settings: SearchSettings
    run_of_stage: StageRun
    study: Study
    solving: Callable[[Proposal], Solve | None]
    trials: list[Trial] = field(default_factory=list)
    note: dict[str, Any] = field(default_factory=dict)
    target: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Trial:
        """Return the trial of the smallest network that keeps the limit, the nearest one where none does.

        Raises:
            SecateursError: The levels have no table, or no candidate keeps the limits on costs.
        """
        run, problem = self.run_of_stage, self.context.problem
        ((metric, limit),) = self.settings.score_limits.items()
        cost = budget_metric(problem, self.settings)
        before = self._score(run.reference if run.reference is not None else self.context.network, metric)[0]
        bound = limit.absolute(before)
        recorded = self.study.trials()
        largest = self._largest(cost)
        highest = problem.space.costs(largest)[cost]
        judged: dict[str, Trial] = {}
        most = math.ceil(math.log2(1 / TOLERANCE**2)) + 2
        with run.log.bar(f"{run.label}: bisection", most, at_most=True) as bar:

            def judge(candidate: Candidate, allowed: float) -> Trial:
                if candidate.fingerprint not in judged:
                    trial = self._step(candidate, allowed, metric, limit, bound, recorded)
                    words = find_metric(metric).text(trial.metrics[metric])
                    bar.update(len(self.trials), f"{cost} {trial.metrics[cost]:.4g}: {metric} {words}")
                    run.stopwatch.save()
                    judged[candidate.fingerprint] = trial
                return judged[candidate.fingerprint]

            def within(allowed: float) -> Trial | None:
                """Return the trial of a budget, None where no network keeps it or this one misses the limit."""
                try:
                    trial = judge(optimum(_limited(problem, cost, allowed)), allowed)
                except UnreachableTargetError:
                    trial = None
                return trial if trial is not None and limit.kept(trial.metrics[metric], bound) else None

            found = judge(largest, highest)
            reachable = limit.kept(found.metrics[metric], bound)
            if reachable:
                lowest = problem.space.costs(_cheapest(problem))[cost]
                found = smallest(found, lambda trial: trial.metrics[cost], lowest, within)
        value, error = found.metrics[metric], found.proposal.notes["error"]
        text = find_metric(metric).text
        if not reachable:
            run.warn(
                f"target {metric} {limit} is out of reach: on the search split the nearest network has {text(value)} with "
                f"{cost} {found.metrics[cost]:.4g}, and {text(bound)} was asked for"
            )
        steps = [{**trial.proposal.notes, "trial": trial.number, "cost": trial.metrics[cost]} for trial in self.trials]
        self.note = {"metric": cost, "limit": found.metrics[cost], "steps": steps}
        row = {"text": str(limit), "limit": bound, "value": value, "met": reachable, "before": before, "error": error}
        self.target = {metric: row}
        return found

    def solve(self, proposal: Proposal) -> Solve | None:
        """Return what solves the layers of a proposal's network; None for nothing, and for one from which nothing is cut."""
        whole = {name: levels[-1] for name, levels in self.context.problem.levels.items()}
        return None if proposal.candidate.values == whole else self.solving(proposal)

    def trained(self, proposal: Proposal) -> Network | None:
        """Return the network of a proposal trained as finalists are, None where they aren't; notes ``finalists``."""
        finalists = self.settings.finalists
        if finalists is None or finalists.training is None:
            return None
        one = [Finalist(proposal)]
        return train_finalists(one, self.context, finalists.training, self.run_of_stage, self.solve)[1]

    def _step(
        self,
        candidate: Candidate,
        allowed: float,
        metric: str,
        limit: ScoreLimit,
        bound: float,
        recorded: list[Trial],
    ) -> Trial:
        """Return the trial of a candidate, recorded earlier or measured now."""
        number = len(self.trials)
        if number < len(recorded):
            trial = recorded[number]
            check_replay(replace(trial, proposal=replace(trial.proposal, notes={})), Proposal(candidate))
        else:
            begun = time.monotonic()
            proposal = Proposal(candidate)
            network, notes = self.context.realize(proposal, None, self.solve(proposal))
            network = self.trained(proposal) or network
            score, error = self._score(network, metric, notes["metrics"])
            row = {"limit": allowed, "score": score, "error": error, "kept": limit.kept(score, bound)}
            metrics = {**self.context.problem.space.costs(candidate), **notes["metrics"], metric: score}
            trial = Trial(number, Proposal(candidate, notes=row), "complete", metrics, time.monotonic() - begun)
            self.study.add(trial)
        self.trials.append(trial)
        return trial

    def _score(self, network: Network, metric: str, measured: Mapping[str, float] | None = None) -> tuple[float, float | None]:
        """Return a network's score on the search split, and its standard error as far as it is known.

        Args:
            network: The network.
            metric: The score.
            measured: What the search's evaluators have measured of it; None for the reference.

        Raises:
            SecateursError: The score is no number.
        """
        run, context = self.run_of_stage, self.context
        found = measure_with_errors(network.model.to(run.device), run.task, "search", device=run.device)
        if metric in found.values:
            score, error = found.values[metric], found.standard_errors.get(metric)
        elif measured is not None:
            score, error = measured[metric], measured.get(f"{metric}_error")
        else:
            score, error = reference_value(metric, context.evaluator.evaluators, network, run.task, run.device), None
        if not math.isfinite(score):
            raise SecateursError(f"target.{metric}: expected a number on the search split, got {score}")
        return score, error

    def _largest(self, cost: str) -> Candidate:
        """Return the costliest candidate within the limits on costs."""
        problem = self.context.problem
        largest = Candidate({name: levels[-1] for name, levels in problem.levels.items()})
        return largest if problem.violation(problem.space.costs(largest)) == 0.0 else optimum(problem)


def smallest(found: T, cost_of: Callable[[T], float], lowest: float, within: Callable[[float], T | None]) -> T:
    """Return what keeps a limit at the smallest cost, found by bisection to :data:`TOLERANCE` of that cost.

    A score is no smooth function of the budget: twice the tolerance below the end is tried, too, and gone on from if it keeps
    the limit.

    Args:
        found: Something that keeps the limit.
        cost_of: Returns the cost of what keeps the limit.
        lowest: Cost below which there is nothing.
        within: Returns the best within a budget, None where it misses the limit or there is none.
    """
    missed = [lowest]
    while True:
        high = cost_of(found)
        low = max((budget for budget in missed if budget < high), default=high)
        narrow = high - low <= TOLERANCE * high
        budget = (1 - 2 * TOLERANCE) * high if narrow else (low + high) / 2
        better = within(budget)
        if better is not None:
            found = better
        elif narrow:
            return found
        else:
            missed.append(budget)


def budget_metric(problem: Problem, settings: SearchSettings) -> str:
    """Return the cost that is made small: that of the objectives, else MACs, else the first that the space lowers.

    Raises:
        SecateursError: The space lowers no cost.
    """
    smallest = problem.space.costs(_cheapest(problem))
    largest = problem.space.costs(Candidate({name: levels[-1] for name, levels in problem.levels.items()}))
    lowered = [metric for metric in smallest if smallest[metric] < largest[metric]]
    wanted = [metric for metric in (*settings.objectives, "macs", *lowered) if metric in lowered]
    if not wanted:
        raise SecateursError("the smallest network that keeps a score: nothing in this space lowers a cost")
    return wanted[0]


def halfway(context: SearchContext, settings: SearchSettings) -> SearchContext:
    """Return the search with a budget half-way between its costliest and its cheapest candidate, for a check."""
    problem = context.problem
    metric = budget_metric(problem, settings)
    ends = [Candidate({name: levels[end] for name, levels in problem.levels.items()}) for end in (0, -1)]
    limit = sum(problem.space.costs(one)[metric] for one in ends) / 2
    return replace(context, problem=_limited(problem, metric, limit))


def at_budget(context: SearchContext, found: Mapping[str, Any]) -> SearchContext:
    """Return the search with the budget that a bisection has found, for the baselines beside it.

    Args:
        context: The search.
        found: Notes of the bisection's stage.
    """
    note = found["algorithm"]["bisection"]
    return replace(context, problem=_limited(context.problem, note["metric"], note["limit"]))


def _limited(problem: Problem, metric: str, limit: float) -> Problem:
    """Return the problem with a limit on a cost, which is at most the one that it has."""
    own = [target.limit for target in problem.targets if target.metric == metric]
    others = [target for target in problem.targets if target.metric != metric]
    return replace(problem, targets=[*others, Target(metric, min([limit, *own]))])


def _cheapest(problem: Problem) -> Candidate:
    return Candidate({name: levels[0] for name, levels in problem.levels.items()})
