"""The evaluation of a trial: build the smaller network, train it where the space says so, measure it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.base import Draw, EvaluationContext, Evaluator, require_metrics
from evaluators.task import Task
from evaluators.tasks.observations import require_labels
from evaluators.training.checkpoint import Checkpoint
from evaluators.training.loop import TrainingSettings, train
from evaluators.training.moments import TrainingMoments
from evaluators.training.ranks import Ranks
from evaluators.training.recipe import require_sparsifier
from evaluators.training.state import OptimizerState, end_of
from search.executors.attempt import attempt
from search.executors.base import Job
from search.executors.step_solving import Dense, StepSolving
from search.executors.trial_checkpoints import Continued, EndState, MissingStateError
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace, Solve
from spaces.candidate import Candidate
from spaces.channels.surgery import Cut
from spaces.errors import SecateursError
from spaces.execution.randomness import seed_of
from spaces.sparsifiers.base import Sparsifier
from spaces.transformation import cuts_among

_UNTRAINED = "this space trains its candidates: expected search.training: {epochs: ...}, got none"


@dataclass(frozen=True)
class CandidateNetwork:
    """The deployable network of a candidate, and what it was made from.

    Attributes:
        space: The space of the candidate.
        source: The network that entered the search.
        candidate: The candidate.
        model: The deployable network.
        prepared: The trained network that ``model`` was converted from; None for a candidate that is not trained.
        sparsifier: The sparsifier of its training, at the training's end; None without one.
        moments: Second moments of its training, or of the training that it started from; None without one.
    """

    space: SearchSpace[Any]
    source: nn.Module
    candidate: Candidate
    model: nn.Module
    prepared: nn.Module | None = None
    sparsifier: Sparsifier | None = None
    moments: TrainingMoments | None = None

    def equivalence_error(self) -> float:
        """Return the largest absolute difference between outputs of the deployable network and of its masked form.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        if self.prepared is None:
            return float(self.space.check(self.source, self.candidate))
        return float(self.space.check_prepared(self.prepared))

    def transformation(self) -> dict[str, Any]:
        """Return the record from which the structure of the deployable network is rebuilt."""
        if self.prepared is None:
            return self.space.transformation(self.candidate)
        return self.space.transformation_of(self.candidate, self.prepared)


@dataclass(frozen=True)
class TrialEvaluator:
    """Turns a proposal into a measured network.

    Attributes:
        space: What candidates mean.
        model: The network that enters the search.
        task: Data, loss and score.
        evaluators: What is measured; run in ascending ``rank``.
        seed: The run's seed.
        device: Where networks run.
        training: How candidates are trained; None where they are measured as they are.
        tables: What evaluators may read of what was computed beforehand, such as ``omega``.
        solving: Solves the layers of candidates in steps; None where the search hands on unsolved networks.
        dense: Network that candidates are compared with and solved against; None for ``model``.
        ranks: Place of this process among those that train candidates together.
    """

    space: SearchSpace[Any]
    model: nn.Module
    task: Task
    evaluators: Sequence[Evaluator]
    seed: int
    device: torch.device
    training: TrainingSettings | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)
    solving: StepSolving | None = None
    dense: Dense | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def among(self, ranks: Ranks) -> TrialEvaluator:
        """Return the same evaluator for one of several processes that train candidates together; the first one measures."""
        return replace(self, ranks=ranks)

    @property
    def compared(self) -> Dense:
        """The network that candidates are compared with and solved against."""
        return Dense(self.model) if self.dense is None else self.dense

    def evaluate(self, job: Job, checkpoint: Checkpoint | None = None, start: EndState | None = None) -> Trial:
        """Return the measured trial; whatever goes wrong in it makes it a failed one, with the error's text.

        Args:
            job: What to measure.
            checkpoint: Where a candidate's training is kept, and gone on from; None to train in one go.
            start: The end state of the trial that the proposal names; not read where ``checkpoint`` has something.
        """
        return attempt(job, checkpoint, lambda: self.measure(job.proposal, checkpoint, start)[1])

    def measure(
        self, proposal: Proposal, checkpoint: Checkpoint | None = None, start: EndState | None = None
    ) -> tuple[nn.Module, dict[str, float]]:
        """Return the network as it was measured, and what was measured."""
        made = self.build(proposal, checkpoint, start)
        if not self.ranks.first:
            return made.model, {}
        return made.model, self.score(made.model, proposal, made.moments)

    def score(self, model: nn.Module, proposal: Proposal, moments: TrainingMoments | None = None) -> dict[str, float]:
        """Measure the deployable network of a proposal; its BatchNorm statistics may change.

        Args:
            model: The network.
            proposal: The proposal that it was built from.
            moments: Second moments of the last training that its weights have had, where there was one in this search.

        Raises:
            MeasurementError: An evaluator returns something else than the metrics that it promises, finite numbers.
        """
        model.to(self.device)
        metrics: dict[str, float] = {}
        for index, evaluator in enumerate(sorted(self.evaluators, key=lambda evaluator: evaluator.rank)):
            found = evaluator.evaluate(model, self._context(proposal, index, moments))
            metrics.update(require_metrics(evaluator, found, evaluator.metrics_for(self.task)))
        return metrics

    def trains(self, candidate: Candidate) -> bool:
        """Return whether a trial of ``candidate`` trains: the space has a sparsifier for it, or ``training`` is set."""
        return self.training is not None or self.space.sparsifier(candidate) is not None

    def require_training(self) -> None:
        """Raise if the space trains its candidates and they cannot be trained.

        Raises:
            SecateursError: There are no settings to train with, or class labels are needed and the task has none.
        """
        sparsifier = self.space.sparsifier(self.space.sample(np.random.default_rng(0)))
        if sparsifier is None:
            return
        if self.training is None:
            raise SecateursError(_UNTRAINED)
        require_labels(sparsifier, self.task)
        require_sparsifier(self.training, sparsifier)

    def build(
        self,
        proposal: Proposal,
        checkpoint: Checkpoint | None = None,
        start: EndState | None = None,
        solve: Solve | None = None,
    ) -> CandidateNetwork:
        """Return the deployable network of a proposal, trained where the space or the settings say so.

        Args:
            proposal: The proposal.
            checkpoint: Where a candidate's training is kept, and gone on from.
            start: The end state that it starts from, where the proposal names one.
            solve: Solves the layers of a smaller network that is not trained; None leaves its weights as they are, unless the
                proposal has a step and candidates are solved in steps. A training has removed the channels of one that is, so
                that nothing is lost when they are cut.
        """
        candidate, step = proposal.candidate, proposal.step
        if step is not None and self.solving is not None:
            solve = self.solving.solve(self.compared, self.task, self.seed, self.device, step.form)
        if not self.trains(candidate):
            space, model = self.space, self.model
            made = space.realize(model, candidate) if solve is None else space.reconstruct(model, candidate, solve)
            return CandidateNetwork(space, model, candidate, made)
        sparsifier = self.space.sparsifier(candidate)
        prepared, moments = self._trained(proposal, checkpoint, start, sparsifier)
        model = self.space.convert(prepared)
        return CandidateNetwork(self.space, self.model, candidate, model, prepared, sparsifier, moments)

    def prepare(
        self,
        proposal: Proposal,
        checkpoint: Checkpoint | None = None,
        start: EndState | None = None,
        sparsifier: Sparsifier | None = None,
    ) -> nn.Module:
        """Return the prepared network of a proposal that trains, trained as far as its fidelity asks for.

        Args:
            proposal: What to train.
            checkpoint: Where the training is kept, and gone on from.
            start: The end state that it starts from, where the proposal names one.
            sparsifier: The candidate's sparsifier, for a caller who wants to look at it afterwards.

        Raises:
            SecateursError: There are no settings to train with, or what the proposal starts from is missing.
        """
        return self._trained(proposal, checkpoint, start, sparsifier)[0]

    def _trained(
        self, proposal: Proposal, checkpoint: Checkpoint | None, start: EndState | None, sparsifier: Sparsifier | None
    ) -> tuple[nn.Module, TrainingMoments | None]:
        """Return the network of :meth:`prepare`, and the second moments of the last training that its weights have had."""
        candidate, training = proposal.candidate, self.training
        if training is None:
            raise SecateursError(_UNTRAINED)
        if proposal.warm_start is not None and start is None and (checkpoint is None or checkpoint.load() is None):
            raise MissingStateError(f"expected the end state of trial {proposal.warm_start} to start from, got none")
        prepared = self.space.prepare(self.model, candidate)
        same = start is not None and start.fingerprint == candidate.fingerprint
        moments: OptimizerState | None = None
        if start is not None and not (same and proposal.fidelity > 0.0):
            weights, moments = end_of(start.content)
            if same:
                prepared.load_state_dict(weights)
            else:
                self.space.inherit_weights(prepared, weights, self.model)
        if proposal.fidelity == 0.0:
            return prepared.to(self.device).eval(), None if moments is None else TrainingMoments.of(moments, training)
        continued = Continued(checkpoint, start) if start is not None and same else None
        sparsifier = sparsifier if sparsifier is not None else self.space.sparsifier(candidate)
        cuts: tuple[Cut, ...] = ()
        if training.distillation is not None and sparsifier is None:
            # Which channels go is known before the training, as nothing in it decides that.
            cuts = tuple(cuts_among([self.space.transformation(candidate)]))
        history = train(
            prepared,
            self.task,
            training,
            seed=trial_seed(self.seed, candidate),
            device=self.device,
            checkpoint=checkpoint if continued is None else continued,
            sparsifier=sparsifier,
            teacher=self.model if training.distillation is not None else None,
            cuts=cuts,
            until=math.ceil(proposal.fidelity * training.epochs - 1e-9),
            moments=moments,
            ranks=self.ranks,
        )
        if continued is not None:
            continued.settle()
        return prepared, None if history.optimizer is None else TrainingMoments.of(history.optimizer, training)

    def _context(self, proposal: Proposal, index: int, moments: TrainingMoments | None) -> EvaluationContext:
        """Each evaluator gets a generator of its own, so that what one draws doesn't change what another sees."""
        generator = torch.Generator().manual_seed(trial_seed(self.seed, proposal.candidate) + index)
        costs = self.space.costs(proposal.candidate)
        # Where the fidelity is a share of the training, what it comes to is measured in full.
        trains, step = self.trains(proposal.candidate), proposal.step
        fidelity = 1.0 if trains or proposal.fidelity == 0.0 else proposal.fidelity
        return EvaluationContext(
            task=self.task,
            generator=generator,
            device=self.device,
            fidelity=fidelity,
            reference=self.compared.model,
            costs=costs,
            candidate=proposal.candidate,
            tables=self.tables,
            trained=trains and (proposal.fidelity > 0.0 or proposal.warm_start is not None),
            moments=moments,
            draw=None if step is None else Draw(step.images, step.seed, step.form == "final", step.form == "rough"),
        )


def trial_seed(seed: int, candidate: Candidate) -> int:
    """Return the seed of all randomness in a trial, in [0, 2**48): the same wherever and whenever it is evaluated."""
    return seed_of(f"{seed}/{candidate.fingerprint}")
