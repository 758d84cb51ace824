"""Search: which of the space's networks is the best one, with baselines at the same cost beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from evaluators.training.checkpoint import Checkpoint
from evaluators.training.settings import TrainingSettings
from search.algorithms.base import Algorithm
from search.algorithms.encoding.one_at_a_time import greedy_divergence
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.algorithms.integer_program import optimum
from search.config.block import Block
from search.config.document import Path
from search.config.registries import ALGORITHM, EXECUTOR, SPACE
from search.config.stage_kind import Surroundings
from search.executors.group_executor import executor_of
from search.run.network import Network
from search.run.stage_run import RESULT, DryRun, StageRun
from search.stages.base import Stage
from search.stages.search.asynchronous_loop import AsynchronousLoop
from search.stages.search.batch_loop import BatchLoop
from search.stages.search.bisection import Bisection, at_budget, halfway
from search.stages.search.check import check_goals, tell_time
from search.stages.search.context import SearchContext
from search.stages.search.finalists import Finalist, choose_finalists, train_finalists
from search.stages.search.goals import goal_faults
from search.stages.search.loop import SearchFailedError
from search.stages.search.passes import at_final, final_limits, pass_faults, pass_settings, whole_rows
from search.stages.search.records import end_of, is_asynchronous, study_of, trial_checkpoints
from search.stages.search.rungs import halve_finalists, tell_steps
from search.stages.search.search_note import SearchNote
from search.stages.search.settings import BudgetSettings, SearchSettings
from search.stages.search.trial_rows import front_point, trial_row
from search.stages.solving import solver, tell_costs
from search.study.pareto import front
from search.study.trial import Proposal, Trial
from spaces.base import Solve

LIMITS = ("generations", "evaluations", "seconds")
"""Options of an algorithm or a budget that say how long a search goes on."""

GREEDY = {
    "uniform": uniform,
    "global_magnitude": global_magnitude,
    "integer_program": optimum,
    "greedy_divergence": greedy_divergence,
}


class Search(Stage[SearchSettings]):
    """Search of the space of the network that enters, and of the baselines at the same cost beside it."""

    Settings = SearchSettings
    compresses = True
    searches = True
    removes = True
    grows = ("baselines", *(f"{part}.{limit}" for part in ("algorithm", "budget") for limit in LIMITS))
    float_option = "space"

    @property
    def begins_training(self) -> str:
        """The steps of finalists that have no training of their own."""
        finalists = self.settings.finalists
        return "finalists.steps" if finalists is not None and finalists.training is None else ""

    @property
    def passes(self) -> tuple[SearchSettings, ...]:
        """Settings of every pass of ``rounds`` and ``iterations``."""
        return pass_settings(self.settings)

    @property
    def trains_between(self) -> str:
        """The option ``iterations``."""
        return "iterations" if self.settings.iterations else ""

    @property
    def passes_by(self) -> bool:
        """True for a pass behind the first."""
        return self.settings.passes is not None and self.settings.passes.goes_on

    @property
    def space(self) -> Block:
        """The space that is searched."""
        return self.settings.space

    @property
    def quantizes(self) -> bool:
        """True if the space chooses bits."""
        return bool(SPACE.find(self.settings.space.name).quantizes_with(self.settings.space.settings))

    @property
    def evaluators(self) -> tuple[Block, ...]:
        """The evaluators of candidates."""
        return self.settings.evaluate

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that are put beside the result."""
        return self.settings.baselines

    @property
    def recorded(self) -> tuple[str, ...]:
        """The search and its random baseline."""
        return (RESULT, "random")

    @property
    def trainings(self) -> Mapping[str, TrainingSettings]:
        """The trainings of candidates and of finalists, where there are any."""
        finalists = self.settings.finalists
        found = {"training": self.settings.training, "finalists.training": finalists.training if finalists else None}
        return {path: training for path, training in found.items() if training is not None}

    def faults(self, surroundings: Surroundings) -> Iterable[tuple[Path, str]]:
        """Yield the faults in evaluators, objectives, targets, budget and passes."""
        yield from goal_faults(self.settings, surroundings)
        yield from pass_faults(self.settings)

    def depends_on(self, variant: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings that decide the network of ``variant``: without the algorithm for a greedy baseline."""
        unimportant = {"baselines", *(("algorithm", "budget", "batch") if variant in GREEDY else ())}
        return {name: value for name, value in settings.items() if name not in unimportant}

    def check(self, network: Network, run: DryRun) -> Network:
        """Build the space, the algorithm and the greedy baselines, and return the network of a first candidate."""
        check_goals(self.settings, network, run)
        executor = run.execution.executor
        EXECUTOR.find(executor.name).check(executor.settings, run.execution.threads_per_trial)
        context = SearchContext.of(network, run, self.settings, dry=True)
        if self.settings.score_limits:
            context = halfway(context, self.settings)
        context.evaluator.require_training()
        algorithm = context.algorithm(self.settings, run.seed)
        if self.settings.finalists is not None and self.settings.finalists.steps:
            tell_steps(self.settings.finalists, run)
        for name in self.settings.baselines:
            if name in GREEDY:
                GREEDY[name](at_final(context, self.settings).problem)
        space = context.problem.space
        candidate = next(iter(context.problem.starts), None) or space.sample(np.random.default_rng(run.seed))
        if run.timed and self.settings.training is None and not self.settings.score_limits:
            tell_time(self.settings, context, algorithm, candidate, run)
        settings = self.settings.reconstruct
        if settings is not False and space.channels is not None and self.settings.training is None:
            space.reconstruct(
                network.model, candidate, lambda small, cut: tell_costs(network.model, small, run, settings, self.baselines)
            )
        return Network(
            space.realize(context.evaluator.model, candidate), (*network.transformations, space.transformation(candidate))
        )

    def run(self, network: Network, run: StageRun) -> Network:
        """Search, or make the baseline that ``run.variant`` names, and return its network."""
        key = ("context", network.digest())
        context = run.built.get(run.step, key, lambda: SearchContext.of(network, run, self.settings))
        if self.settings.score_limits:
            if run.variant == RESULT:
                return self._within_score(context, run)
            context = at_budget(context, run.found)
        if run.variant != RESULT:
            context = at_final(context, self.settings)
        if run.variant in GREEDY:
            return self._finals(context, [Finalist(Proposal(GREEDY[run.variant](context.problem)))], run)
        if run.variant == "random":
            behind = () if self.settings.passes is None else self.settings.passes.toward
            spent = len(run.found["trials"]) * (1 + len(behind))
            algorithm = self._random(context, spent, run.seed)
            return self._search(context, algorithm, BudgetSettings(evaluations=spent), run)
        return self._search(context, context.algorithm(self.settings, run.seed), self.settings.budget, run)

    def _within_score(self, context: SearchContext, run: StageRun) -> Network:
        """Return the smallest network that keeps the limit on a score."""
        study = study_of(context, run)
        bisection = Bisection(context, self.settings, run, study, partial(self._solve, context, run))
        found, trials = bisection.run(), bisection.trials
        run.notes.update(
            trials=[trial_row(trial, context.problem) for trial in trials],
            failed=0,
            worker_seconds=sum(trial.seconds for trial in trials),
            ended_by="algorithm",
            asynchronous=False,
            pareto=[front_point(trial, context.problem) for trial in front(trials, context.problem)],
            algorithm={"bisection": bisection.note},
            trial=found.number,
        )
        network = self._deliver(context, found.proposal, None, run, bisection.solve(found.proposal))
        run.notes["target"] = {**run.notes["target"], **bisection.target}
        return bisection.trained(found.proposal) or network

    def _random(self, context: SearchContext, spent: int, seed: int) -> Algorithm[Any]:
        """Return random search with as many evaluations, and with the rungs of the search beside which it is."""
        own = self.settings.algorithm
        name, options = ALGORITHM.find(own.name).random_control(own.settings, context.problem.space, spent)
        found = ALGORITHM.find(name)
        # A seed of its own: Optuna's samplers start with random draws, which would be this baseline's as well.
        own_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        algorithm: Algorithm[Any] = found(context.problem, found.Settings(**options), own_seed)
        return algorithm

    def _search(self, context: SearchContext, algorithm: Algorithm[Any], budget: BudgetSettings, run: StageRun) -> Network:
        problem = context.problem
        study = study_of(context, run)
        known = len(study.trials())
        if known == 0 and run.stopwatch.before > 0.0:
            run.warn(f"the record of the study {study.name!r} is empty: its trials are evaluated anew")
        checkpoints = trial_checkpoints(context, run, study.trials)
        executor = executor_of(run.execution, context.workload(run, checkpoints), run.warn)
        limits = [limit for limit in (algorithm.budget, budget.evaluations) if limit is not None]

        def keep_best(trials: list[Trial]) -> None:
            if run.variant == RESULT:
                self._keep_best(context, algorithm, trials, run)

        seconds_left = None if budget.seconds is None else lambda: (budget.seconds or 0.0) - run.stopwatch.seconds
        loop_class = AsynchronousLoop if is_asynchronous(run) else BatchLoop
        try:
            with run.log.bar(run.label, min(limits, default=None), seconds_left, at_most=True) as bar:
                bar.update(known)
                loop = loop_class(
                    algorithm=algorithm,
                    study=study,
                    executor=executor,
                    checkpoints=checkpoints,
                    budget=budget,
                    batch=self.settings.batch,
                    stopwatch=run.stopwatch,
                    bar=bar,
                    note=SearchNote(problem, algorithm.incumbent),
                    log=lambda text, level: run.log.write(f"{run.label}: {text}", level),
                    on_batch=keep_best,
                )
                trials = loop.run()
        finally:
            executor.close()
        chosen = algorithm.incumbent(trials)
        if chosen is None:
            raise SearchFailedError(
                f"none of the {len(trials)} trials was measured in full; the last error: "
                f"{next((trial.error for trial in reversed(trials) if trial.error), 'none')}. Raise the search's budget"
            )
        run.notes.update(
            trials=[trial_row(trial, replace(problem, targets=context.targets)) for trial in trials],
            failed=sum(trial.state == "failed" for trial in trials),
            worker_seconds=sum(trial.seconds for trial in trials),
            ended_by=loop.ended_by or "algorithm",
            asynchronous=run.execution.asynchronous,
            pareto=[front_point(trial, problem) for trial in front(trials, problem)],
            algorithm=dict(algorithm.notes),
        )
        if (groups := context.problem.space.channels) is not None and groups.remarks:
            run.notes["remark"] = "; ".join(groups.remarks)
        run.notes["omega"] = context.sensitivity.source()
        if run.variant == RESULT and (compared := context.sensitivity.comparison()) is not None:
            run.notes["sensitivity"] = compared
        finals = self.settings.finalists
        order = algorithm.preferred(trials)
        last = [chosen] if finals is None else choose_finalists(trials, problem, finals.count, chosen, order)
        found = [Finalist(trial.proposal, end_of(context, checkpoints, trial), trial.number) for trial in last]
        return self._finals(context, found, run)

    def _finals(self, context: SearchContext, finalists: list[Finalist], run: StageRun) -> Network:
        """Return the network of the best finalist, trained where they are."""
        place = 0
        trained: Network | None = None
        settings, solve = self.settings.finalists, partial(self._solve, context, run)
        if settings is not None and settings.steps:
            place, trained = halve_finalists(finalists, context, settings, run, solve)
        elif settings is not None and settings.training is not None:
            place, trained = train_finalists(finalists, context, settings.training, run, solve)
        run.notes["trial"] = finalists[place].trial
        proposal = finalists[place].proposal
        network = self._deliver(context, proposal, finalists[place].end, run, self._solve(context, run, proposal))
        return network if trained is None else trained

    def _deliver(
        self, context: SearchContext, proposal: Proposal, end: Checkpoint | None, run: StageRun, solve: Solve | None
    ) -> Network:
        """Return the network of a proposal, and note what the report needs of it."""
        network, notes = context.realize(proposal, end, solve)
        metrics, rows = notes["metrics"], context.rows(network, proposal.candidate)
        limits = self.settings.target if run.variant == RESULT else final_limits(self.settings)
        if self.passes_by:
            rows["layers"] = whole_rows(rows["layers"], context.network.transformations)
        run.notes.update(
            fingerprint=proposal.candidate.fingerprint,
            **notes,
            **rows,
            objectives=dict(self.settings.objectives),
            target={
                target.metric: {
                    "text": str(limits[target.metric]),
                    "limit": target.limit,
                    "value": metrics[target.metric],
                    "met": target.violation(metrics) == 0.0,
                }
                for target in context.targets
            },
        )
        return network

    def _solve(self, context: SearchContext, run: StageRun, proposal: Proposal) -> Solve | None:
        """Return what solves the layers of a proposal's network, None where that is switched off."""
        settings = self.settings.reconstruct
        if settings is False or context.evaluator.trains(proposal.candidate):
            return None
        dense = context.evaluator.compared
        return solver(dense.model, run, settings, proposal.candidate.fingerprint, dense.cuts)

    def _keep_best(self, context: SearchContext, algorithm: Algorithm[Any], trials: list[Trial], run: StageRun) -> None:
        """Put the network of the trial to deliver on disk, unless it is there already."""
        chosen, known, evaluator = algorithm.incumbent(trials), run.best.provenance() or {}, context.evaluator
        if chosen is None or (known.get("step"), known.get("trial")) == (run.step, chosen.number):
            return
        solve = None
        if algorithm.measures_solved:
            if (known.get("step"), known.get("fingerprint")) == (run.step, chosen.proposal.candidate.fingerprint):
                return  # A parent that has stayed.
            if evaluator.solving is not None:
                solve = evaluator.solving.solve(evaluator.compared, evaluator.task, evaluator.seed, evaluator.device, "close")
        end = end_of(context, trial_checkpoints(context, run, lambda: trials), chosen)
        network, notes = context.realize(chosen.proposal, end, solve)
        metrics = notes["metrics"]
        fingerprint = chosen.proposal.candidate.fingerprint
        run.best.replace(network, {"step": run.step, "trial": chosen.number, "fingerprint": fingerprint, "metrics": metrics})
        names = [objective.metric for objective in context.problem.objectives]
        words = ", ".join(f"{name} {metrics[name]:.6g}" for name in names)
        run.log.write(f"{run.label}: best is trial {chosen.number}: {words}", logging.DEBUG)
