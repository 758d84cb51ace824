"""The setting of a search: the space of a network, what is sought in it, and how a candidate is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from evaluators.base import Evaluator
from evaluators.latency.latency import latencies
from evaluators.training.checkpoint import Checkpoint
from evaluators.training.ranks import Ranks
from search.algorithms.base import Algorithm
from search.algorithms.integer_program import allocations
from search.algorithms.mixed_starts import branch_starts, mixed_starts
from search.config.registries import ALGORITHM
from search.executors.base import Evaluate, Workload
from search.executors.remote_timer import evaluators_of
from search.executors.step_solving import Dense, StepSolving
from search.executors.training_group import PackedWork
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.run.network import Network
from search.run.stage_run import StageContext, StageRun
from search.stages.search.goals import require_scores
from search.stages.search.latency_tables import LatencyTables
from search.stages.search.level_tables import LevelTables
from search.stages.search.sensitivity_tables import SensitivityTables
from search.stages.search.settings import SearchSettings
from search.stages.search.space import describe_frozen, require_fitting, space_of
from search.stages.search.tables import search_tables
from search.stages.search.targets import measured_targets, reachable_targets, reference_value, resolve_targets
from search.stages.training import sparsifier_note
from search.study.problem import Objective, Problem, Target
from search.study.trial import Proposal
from spaces.base import Solve
from spaces.candidate import Candidate
from spaces.layers.batch_norm import statistics_kept
from spaces.reconstruction.record import RECONSTRUCTED


@dataclass(frozen=True)
class SearchContext:
    """Everything a search over one network needs.

    Attributes:
        network: The network that enters the search.
        problem: The space and what is sought in it.
        targets: The targets as they were set. What earlier stages left can be too large for one, when nobody would want the
            run to fail on it: then the problem has the smallest candidate's cost instead.
        evaluator: How a candidate is measured.
        sensitivity: The table of Omega, and how far it can be trusted.
    """

    network: Network
    problem: Problem
    targets: Sequence[Target]
    evaluator: TrialEvaluator
    sensitivity: SensitivityTables

    @staticmethod
    def of(network: Network, run: StageContext, settings: SearchSettings, dry: bool = False) -> SearchContext:
        """Build the space of ``network`` and resolve the targets against the reference.

        Args:
            network: The network that enters the search.
            run: What the stage may use.
            settings: The stage's settings.
            dry: For a check: sensitivity is not measured, all of Omega is 0, channels are in the order of norms, no starts are
                looked for, nothing is written.

        Raises:
            SecateursError: Nothing in the network is open, or objectives and targets name what nothing measures.
        """
        task, trains = run.task, settings.training is not None
        model = network.model.to(run.device).eval()
        evaluators = evaluators_of(settings.evaluate, run.execution)
        require_scores(settings, evaluators, task)
        space = space_of(network, run, settings.space)
        require_fitting(space, settings.space.name, list(settings.objectives), evaluators, trains)
        log, warn = partial(_log, run), run.warn
        reference = run.reference if run.reference is not None else network
        latency = _latency_tables(evaluators, network, reference, run)
        if latency is not None:
            latency.fit(space)
        targets = resolve_targets(settings.limits, partial(_reference_value, latency, evaluators, reference, run))
        if latency is not None:
            # Of candidates that have to be trained, and behind what other stages leave, the reach is not known beforehand.
            smallest = partial(latency.smallest, space) if dry and not trains and not network.transformations else _unknown
            measured = dict.fromkeys(latency.metrics, latency.reference)
            for line in measured_targets(settings.limits, measured, smallest, space.target_remedy):
                run.tell(line)
        reachable = reachable_targets(targets, space, warn) if network.transformations else targets
        sensitivity = SensitivityTables(
            space, model, task, evaluators, run.device, run.seed, run.folder, log, warn, network.moments
        )
        omega = (sensitivity.zeros() if dry else sensitivity.table()) if sensitivity.wanted else None
        levels = LevelTables(space, model, task, run.device, run.folder, log, warn)
        tables = search_tables(levels, settings.importance, omega, settings.reads_divergence, dry, settings.reads_removal_order)
        read = {name: table for name, table in tables.items() if name == "omega"}
        solving = None if settings.reconstruct is False else StepSolving(settings.reconstruct)
        evaluator = TrialEvaluator(
            space,
            model,
            task,
            evaluators,
            run.seed,
            run.device,
            settings.training,
            read,
            solving,
            _dense(network, reference, run, settings),
            Ranks(0, run.execution.training_workers, behind=True),
        )
        objectives = [Objective(metric, direction) for metric, direction in settings.objectives.items()]
        problem = Problem(space, objectives, reachable, tables, trains)
        starts = space.starting_points() if dry else starting_candidates(problem)
        return SearchContext(network, replace(problem, starts=tuple(starts)), targets, evaluator, sensitivity)

    def algorithm(self, settings: SearchSettings, seed: int) -> Algorithm[Any]:
        """Return the search's algorithm, fresh."""
        found: Algorithm[Any] = ALGORITHM.find(settings.algorithm.name)(self.problem, settings.algorithm.settings, seed)
        return found

    def workload(self, run: StageRun, checkpoints: TrialCheckpoints) -> Workload:
        """Return what an executor does for this search."""
        threads = run.execution.threads_per_trial

        def pack(device: str) -> Callable[[], Evaluate]:
            # Only an evaluator that leaves this process needs what takes it there.
            from search.executors.shipment import ship

            return ship(self.evaluator, self.network.transformations, run.build_task, threads, device)

        training = self.evaluator.training

        def pack_together(device: str) -> PackedWork:
            from search.executors.group_training import PackedEvaluation
            from search.executors.shipment import ship

            shipment = ship(self.evaluator, self.network.transformations, run.build_task, threads, device)
            return PackedEvaluation(shipment, device, training)

        device = run.execution.device
        return Workload(
            self.evaluator.evaluate, pack, checkpoints, threads, device, pack_together if training is not None else None
        )

    def realize(
        self, proposal: Proposal, end: Checkpoint | None = None, solve: Solve | None = None
    ) -> tuple[Network, dict[str, Any]]:
        """Return the network of a proposal as it was measured, and notes: ``metrics``, and ``equivalence_error``.

        That is its difference from the masked network. Of a training with a sparsifier ``participation`` is its record, and
        ``sparsifier`` its schedule and shares.

        Args:
            proposal: What was measured.
            end: The end state of its training; without it, it is trained anew.
            solve: Solves the layers of a network that is not trained; its statistics of BatchNorm are not measured again.

        Raises:
            EquivalenceError: It differs by more than rounding.
        """
        made = self.evaluator.build(proposal, end, solve=solve)
        notes: dict[str, Any] = {}
        if made.sparsifier is not None:
            notes = {"participation": made.sparsifier.record(), "sparsifier": sparsifier_note(made.sparsifier)}
        error, transformation = made.equivalence_error(), made.transformation()
        # The statistics of BatchNorm may change from here on.
        metrics = self.evaluator.score(made.model, proposal, made.moments)
        notes |= {"metrics": metrics, "equivalence_error": error}
        changes = [transformation, RECONSTRUCTED] if statistics_kept(made.model) else [transformation]
        return Network(made.model, (*self.network.transformations, *changes)), notes

    def rows(self, network: Network, candidate: Candidate) -> dict[str, list[Any]]:
        """Return the report's rows on the realized network of a candidate: ``layers``, ``bits`` and ``frozen``."""
        space = self.problem.space
        made = space.report_rows(candidate, network.transformations[len(self.network.transformations)])
        return {"layers": [], "bits": [], **made, "frozen": describe_frozen(space)}


def starting_candidates(problem: Problem) -> list[Candidate]:
    """Return the candidates to try first, each once: of integer programs where Omega is known, then the space's own."""
    return list(
        dict.fromkeys(
            (*allocations(problem), *mixed_starts(problem), *branch_starts(problem), *problem.space.starting_points())
        )
    )


def _dense(network: Network, reference: Network, run: StageContext, settings: SearchSettings) -> Dense | None:
    """Return the network that candidates are compared with, None for the one that enters the search."""
    if settings.passes is None or not settings.passes.dense:
        return None
    return Dense(reference.model.to(run.device).eval(), network.cuts_since(reference))


def _latency_tables(
    evaluators: Sequence[Evaluator], network: Network, reference: Network, run: StageContext
) -> LatencyTables | None:
    """Return what is known of latency, None where no evaluator measures it."""
    timed = next(iter(latencies(evaluators)), None)
    if timed is None:
        return None
    folder = None if run.folder is None else run.folder.parent
    return LatencyTables(timed, network.model, reference.model, run.task, folder, partial(_log, run), run.warn)


def _reference_value(
    latency: LatencyTables | None, evaluators: Sequence[Evaluator], reference: Network, run: StageContext, metric: str
) -> float:
    if latency is not None and metric in latency.metrics:
        return latency.reference()
    return reference_value(metric, evaluators, reference, run.task, run.device)


def _unknown() -> None:
    return None


def _log(run: StageContext, text: str, level: int = logging.INFO) -> None:
    run.log.write(f"{run.label}: {text}", level)
