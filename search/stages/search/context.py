"""The setting of a search: the space of a network, what is sought in it, and how a candidate is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.latency.latency import latencies
from evaluators.task import Task
from evaluators.tasks.observations import observations
from evaluators.training.checkpoint import Checkpoint
from search.algorithms.integer_program import allocations
from search.algorithms.mixed_starts import mixed_starts
from search.config.registries import ALGORITHM, SPACE
from search.executors.base import Evaluate, Workload
from search.executors.remote_timer import evaluators_of
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.run.network import Network
from search.run.stage_run import StageContext, StageRun
from search.stages.removal import frozen
from search.stages.search.latency_tables import LatencyTables
from search.stages.search.sensitivity_tables import SensitivityTables
from search.stages.search.settings import SearchSettings
from search.study.problem import Objective, Problem, Target, within_reach
from search.study.trial import Proposal
from spaces.base import SearchSpace
from spaces.bit_points import QuantizingSpace
from spaces.candidate import Candidate
from spaces.channels.groups import ChannelGroups
from spaces.errors import SecateursError
from spaces.importance import criterion as importance
from spaces.importance.criterion import Observations
from spaces.ordinal import OrdinalSpace

CALIBRATION_SAMPLES = 2048
"""Training samples, unaugmented, that a space may calibrate on, and that importance may be learnt from."""


@runtime_checkable
class HasGroups(Protocol):
    """A space over coupled channels, which have an importance."""

    groups: ChannelGroups


@runtime_checkable
class Checkable(Protocol):
    """A space that compares its deployable network with the prepared one."""

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest absolute difference between their outputs; too large a one raises EquivalenceError."""
        ...


@runtime_checkable
class CheckableTrained(Protocol):
    """A space that compares the deployable form of a trained prepared network with its masked form."""

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the largest absolute difference between their outputs; too large a one raises EquivalenceError."""
        ...


@runtime_checkable
class Learning(Protocol):
    """A space that learns from labelled batches which channels matter."""

    def learn(self, seen: Observations) -> None:
        """Learn; called once, before any candidate is built."""
        ...


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
    def of(network: Network, run: StageContext, settings: SearchSettings) -> SearchContext:
        """Build the space of ``network`` and resolve the targets against the reference.

        Raises:
            SecateursError: Nothing in the network is open, or objectives and targets name what nothing measures.
        """
        task, model = run.task, network.model.to(run.device).eval()
        inputs = task.example_inputs().to(run.device)
        space_class = SPACE.find(settings.space.name)
        batches = (batch.to(run.device) for batch, _ in task.batches("train", 128, limit=CALIBRATION_SAMPLES))
        space: SearchSpace = space_class(model, inputs, settings.space.settings, forward=task.forward, batches=batches)
        if settings.training is None and space.sparsifier(space.sample(np.random.default_rng(0))) is not None:
            raise SecateursError(
                f"the space {settings.space.name} trains its candidates: expected search.training: {{epochs: ...}}, got none"
            )
        if isinstance(space, Learning):
            space.learn(observations(task, run.device, limit=CALIBRATION_SAMPLES))
        require_informative_objective(space, list(settings.objectives))
        evaluators = evaluators_of(settings.evaluate, run.execution)
        reference = run.reference if run.reference is not None else network
        folder = run.folder
        log = functools.partial(_log, run)
        timed = next(iter(latencies(evaluators)), None)
        latency = None
        if timed is not None:
            shared = None if folder is None else folder.parent
            latency = LatencyTables(timed, model, reference.model, task, shared, log)
            latency.fit(space)
        limits = {}
        for metric, limit in settings.target.items():
            value = 0.0
            if limit.relative and latency is not None and metric in latency.metrics:
                value = latency.reference()
            elif limit.relative:
                value = _measured(metric, evaluators, reference, task, run.device)
            limits[metric] = limit.absolute(value)
        _require_measured([*settings.objectives, *limits], evaluators, task)
        objectives = [Objective(metric, direction) for metric, direction in settings.objectives.items()]
        targets = [Target(metric, limit) for metric, limit in limits.items()]
        reachable = [within_reach(target, space) if network.transformations else target for target in targets]
        for target, lowest in zip(targets, reachable, strict=True):
            if target != lowest:
                log(
                    f"target {target.metric} <= {target.limit:g} is out of reach of the network that the stages before have "
                    f"left: the smallest of the space has {lowest.limit:g}, and is what is sought"
                )
        known: dict[str, Any] = {**make_tables(space, model, task, settings.importance, run.device)}
        known["samples"] = {"search": np.array(task.size("search"))}
        sensitivity = SensitivityTables(space, model, task, evaluators, run.device, run.seed, folder, log)
        if any(evaluator.needs_quantizers for evaluator in evaluators) and not isinstance(space, QuantizingSpace):
            raise SecateursError(
                f"evaluate.omega is what rounding does to the loss, and the space {settings.space.name} rounds nothing; leave "
                "it out"
            )
        if sensitivity.wanted:
            known["omega"] = sensitivity.table()
        read = {name: table for name, table in known.items() if name == "omega"}
        evaluator = TrialEvaluator(space, model, task, evaluators, run.seed, run.device, settings.training, read)
        problem = Problem(space, objectives, reachable, known, settings.training is not None)
        starts = (*allocations(problem), *mixed_starts(problem), *space.starting_points())
        problem = replace(problem, starts=tuple(dict.fromkeys(starts)))
        return SearchContext(network, problem, targets, evaluator, sensitivity)

    def algorithm(self, settings: SearchSettings, seed: int) -> Any:
        """Return the search's algorithm, fresh."""
        return ALGORITHM.find(settings.algorithm.name)(self.problem, settings.algorithm.settings, seed)

    def workload(self, run: StageRun, checkpoints: TrialCheckpoints) -> Workload:
        """Return what an executor does for this search."""
        threads = run.execution.threads_per_trial

        def pack(device: str) -> Callable[[], Evaluate]:
            # Only an evaluator that leaves this process needs what takes it there.
            from search.executors.shipment import ship

            return ship(self.evaluator, self.network.transformations, run.build_task, threads, device)

        return Workload(self.evaluator.evaluate, pack, checkpoints, threads, run.execution.device)

    def realize(self, proposal: Proposal, end: Checkpoint | None = None) -> tuple[Network, dict[str, Any]]:
        """Return the network of a proposal as it was measured, and notes: ``metrics``, and ``equivalence_error``.

        That is its difference from the masked network. Of a training with a sparsifier ``participation`` is its record.

        Args:
            proposal: What was measured.
            end: The end state of its training; without it, it is trained anew.

        Raises:
            EquivalenceError: It differs by more than rounding.
        """
        space, evaluator, candidate = self.problem.space, self.evaluator, proposal.candidate
        notes: dict[str, Any] = {}
        if evaluator.trains(candidate):
            sparsifier = space.sparsifier(candidate)
            prepared = evaluator.prepare(proposal, end, sparsifier=sparsifier)
            if sparsifier is not None:
                notes["participation"] = sparsifier.record()
            error = space.check_prepared(prepared) if isinstance(space, CheckableTrained) else 0.0
            model, transformation = space.convert(prepared), space.transformation_of(candidate, prepared)
        else:
            error = space.check(self.network.model, candidate) if isinstance(space, Checkable) else 0.0
            model, transformation = space.realize(evaluator.model, candidate), space.transformation(candidate)
        metrics = evaluator.score(model, proposal)
        notes |= {"metrics": metrics, "equivalence_error": float(error)}
        return Network(model, (*self.network.transformations, transformation)), notes

    def layers(self, network: Network) -> list[dict[str, Any]]:
        """Return what stays of every open layer in a realized network."""
        kept: Mapping[str, Any] = network.transformations[-1].get("candidate", {})
        return [
            {"name": name, "channels": len(value), "kept": value.count("1")}
            for name, value in kept.items()
            if isinstance(value, str)
        ]

    def bits(self, network: Network) -> list[dict[str, Any]]:
        """Return the bits of every quantized layer and addition of a realized network."""
        made, space = network.transformations[-1], self.problem.space
        record = next((step for step in made.get("steps", [made]) if "layers" in step), None)
        if not isinstance(space, QuantizingSpace) or record is None:
            return []
        rows = {
            name: {"weight_bits": weights, "activation_bits": inputs} for name, (weights, inputs) in record["layers"].items()
        }
        rows |= {name: {"weight_bits": None, "activation_bits": count} for name, count in record["additions"].items()}
        sizes = space.extent(Candidate(made["candidate"]))
        return [
            {"name": name, **row, "weights": sizes.weights.get(name, 0), "macs": sizes.macs.get(name, 0.0)}
            for name, row in rows.items()
        ]

    def frozen(self) -> list[dict[str, Any]]:
        """Return what the space does not touch, and why."""
        space = self.problem.space
        channels = frozen(space.groups) if isinstance(space, HasGroups) else []
        if not isinstance(space, QuantizingSpace):
            return channels
        total = sum({point.layer: point.macs for point in space.points}.values()) + sum(entry.macs for entry in space.frozen)
        return channels + [
            {"name": entry.name, "size": entry.weights, "reason": entry.reason, "macs_share": entry.macs / max(total, 1.0)}
            for entry in space.frozen
        ]


def require_informative_objective(space: SearchSpace, objectives: Sequence[str]) -> None:
    """Raise if the first objective is the same for all candidates that differ only in removed channels.

    Raises:
        SecateursError: The first objective is Omega, over a space that removes channels.
    """
    if isinstance(space, HasGroups) and objectives[0] == "omega":
        raise SecateursError(
            "search.objectives puts omega first, which tells what bits cost and nothing of removed channels: expected a score "
            "or loss as the first objective over a space with channels, such as {top1: maximize}"
        )


def make_tables(
    space: SearchSpace, model: nn.Module, task: Task, criterion: str, device: torch.device
) -> dict[str, dict[str, np.ndarray]]:
    """Return what algorithms may know beforehand: ``importance``, by group name; a space of levels knows its own."""
    if not isinstance(space, HasGroups) or isinstance(space, OrdinalSpace):
        return {}
    seen = observations(task, device, limit=CALIBRATION_SAMPLES)
    return {"importance": importance.score(model, space.groups, criterion, seen)}


def _log(run: StageContext, text: str) -> None:
    run.log.write(f"{run.label}: {text}")


def _measured(metric: str, evaluators: list[Evaluator], network: Network, task: Task, device: torch.device) -> float:
    """Return what ``network`` has of ``metric``."""
    model = network.copy().model.to(device).eval()
    for evaluator in evaluators:
        if metric in evaluator.metrics_for(task):
            context = EvaluationContext(task, torch.Generator().manual_seed(0), device, 1.0, network.model, {})
            return evaluator.evaluate(model, context)[metric]
    return 0.0


def _require_measured(names: list[str], evaluators: list[Evaluator], task: Task) -> None:
    known = {name for evaluator in evaluators for name in evaluator.metrics_for(task)}
    for name in names:
        if name not in known:
            raise SecateursError(
                f"search.objectives and search.target name {name!r}, which no evaluator measures; they measure "
                f"{', '.join(sorted(known))}: add an evaluator to search.evaluate or name another metric"
            )
