"""The one recipe of a trial: build the smaller network, train it where the space says so, measure it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.task import Task
from evaluators.training.checkpoint import Checkpoint, FileCheckpoint
from evaluators.training.loop import TrainingSettings, train
from search.disk_errors import is_disk_error
from search.executors.base import Job
from search.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.errors import SecateursError


@dataclass(frozen=True)
class Recipe:
    """Turns a proposal into a measured network.

    Attributes:
        space: What candidates mean.
        model: The network that enters the search.
        task: Data, loss and score.
        evaluators: What is measured; run in ascending ``rank``.
        seed: The run's seed.
        device: Where networks run.
        training: How a candidate is trained that the space has a sparsifier for.
    """

    space: SearchSpace
    model: nn.Module
    task: Task
    evaluators: Sequence[Evaluator]
    seed: int
    device: torch.device
    training: TrainingSettings | None = None

    def evaluate(self, job: Job, checkpoint: Checkpoint | None = None) -> Trial:
        """Return the measured trial; whatever goes wrong in it makes it a failed one, with the error's text.

        Args:
            job: What to measure.
            checkpoint: Where a candidate's training is kept, and gone on from; None to train in one go.
        """
        start = time.perf_counter()
        try:
            _, metrics = self.measure(job.proposal, checkpoint)
        except Exception as error:
            if isinstance(checkpoint, FileCheckpoint) and is_disk_error(error):
                raise  # The run folder is full: that says nothing about the candidate.
            text = f"{type(error).__name__}: {error}"
            return Trial(job.number, job.proposal, "failed", {}, time.perf_counter() - start, text)
        return Trial(job.number, job.proposal, "complete", metrics, time.perf_counter() - start)

    def measure(self, proposal: Proposal, checkpoint: Checkpoint | None = None) -> tuple[nn.Module, dict[str, float]]:
        """Return the network as it was measured, and what was measured."""
        model = self.build(proposal.candidate, checkpoint).to(self.device)
        metrics: dict[str, float] = {}
        for index, evaluator in enumerate(sorted(self.evaluators, key=lambda evaluator: evaluator.rank)):
            metrics.update(evaluator.evaluate(model, self._context(proposal, index)))
        wrong = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        if wrong:
            raise SecateursError(f"{wrong[0]} is {metrics[wrong[0]]}; expected a finite number")
        return model, metrics

    def build(self, candidate: Candidate, checkpoint: Checkpoint | None = None) -> nn.Module:
        """Return the deployable network of ``candidate``."""
        sparsifier = self.space.sparsifier(candidate)
        if sparsifier is None:
            return self.space.realize(self.model, candidate)
        if self.training is None:
            raise SecateursError("this space trains its candidates: expected search.training: {epochs: ...}, got none")
        prepared = self.space.prepare(self.model, candidate)
        seed = trial_seed(self.seed, candidate)
        train(
            prepared,
            self.task,
            self.training,
            seed=seed,
            device=self.device,
            checkpoint=checkpoint,
            sparsifier=sparsifier,
            teacher=self.model if self.training.distillation is not None else None,
        )
        return self.space.convert(prepared)

    def _context(self, proposal: Proposal, index: int) -> EvaluationContext:
        """Each evaluator gets a generator of its own, so that what one draws doesn't change what another sees."""
        generator = torch.Generator().manual_seed(trial_seed(self.seed, proposal.candidate) + index)
        costs = self.space.costs(proposal.candidate)
        return EvaluationContext(self.task, generator, self.device, proposal.fidelity, self.model, costs)


def trial_seed(seed: int, candidate: Candidate) -> int:
    """Return the seed of all randomness in a trial, in [0, 2**48): the same wherever and whenever it is evaluated."""
    digest = hashlib.sha256(f"{seed}/{candidate.fingerprint}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
