"""Training of finalists up to a number of steps, in any process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.training.checkpoint import Checkpoint, FileCheckpoint, unpack_checkpoint
from evaluators.training.loop import train
from evaluators.training.ranks import Ranks
from evaluators.training.settings import TrainingSettings
from search.executors.attempt import attempt
from search.executors.base import Job
from search.executors.trial_checkpoints import EndState, MissingStateError
from search.run.network import Network, restore
from search.study.trial import Proposal, Trial
from spaces.transformation import cuts_among

STEPS = "steps"
"""Note of a proposal: number of optimizer steps after which a finalist is measured."""


@dataclass(frozen=True)
class FinalistFiles:
    """Two files for every finalist: the network that its training starts from, and the training so far.

    Attributes:
        folder: Place of the files; made when the first is written.
        tell: Takes a line about a damaged file.
    """

    folder: Path
    tell: Callable[[str], None]

    def of(self, proposal: Proposal) -> FileCheckpoint:
        """Return the training of a finalist; a damaged one is told, and begun again."""
        path = self.folder / f"{proposal.candidate.fingerprint}.safetensors"
        return FileCheckpoint(path, lambda text: self.tell(f"{text}: it is trained from its start"))

    def network(self, proposal: Proposal) -> FileCheckpoint:
        """Return the network that a finalist's training starts from; a damaged one is told, and made again."""
        path = self.folder / f"{proposal.candidate.fingerprint}.start.safetensors"
        return FileCheckpoint(path, lambda text: self.tell(f"{text}: it is made again"))

    def start(self, proposal: Proposal) -> EndState | None:
        """Return the network that a finalist's training starts from, packed; None before it is written."""
        content = self.network(proposal).packed()
        return None if content is None else EndState(proposal.candidate.fingerprint, content)


@dataclass(frozen=True)
class RungTrainer:
    """Training of a finalist up to the steps that its proposal notes, and its score there.

    Attributes:
        model: The network that enters the search, which another process has already.
        task: Data, loss and score.
        seed: Seed of the training.
        device: Device of the networks.
        training: The training, of which these are the first steps.
        teacher: The network to learn from; None without distillation.
        changes: Number of its changes of structure, which the finalists have had, too.
        ranks: Place of this process among those that train a finalist together.
    """

    model: nn.Module
    task: Task
    seed: int
    device: torch.device
    training: TrainingSettings
    teacher: nn.Module | None
    changes: int = 0
    ranks: Ranks = field(default_factory=Ranks)

    def among(self, ranks: Ranks) -> RungTrainer:
        """Return the same trainer for one of several processes that train a finalist together; the first one measures."""
        return replace(self, ranks=ranks)

    def evaluate(self, job: Job, checkpoint: Checkpoint | None = None, start: EndState | None = None) -> Trial:
        """Return the trial of a finalist: its score on the search split; see :func:`.attempt`.

        Args:
            job: The finalist, which notes the number of its steps.
            checkpoint: Place that the training is kept in, and gone on from.
            start: The network that it starts from, packed with its ``transformations``.
        """
        return attempt(job, checkpoint, partial(self._score, job.proposal, checkpoint, start))

    def _score(self, proposal: Proposal, checkpoint: Checkpoint | None, start: EndState | None) -> dict[str, float]:
        if start is None:
            raise MissingStateError(
                f"expected the network of finalist {proposal.candidate.fingerprint} to start from, got none"
            )
        network = self.network(start)
        train(
            network.model,
            self.task,
            self.training,
            seed=self.seed,
            device=self.device,
            checkpoint=checkpoint,
            teacher=self.teacher,
            cuts=tuple(cuts_among(network.transformations[self.changes :])),
            until_step=proposal.notes[STEPS],
            ranks=self.ranks,
        )
        if not self.ranks.first:
            return {}
        return {self.task.score_name: measure(network.model, self.task, "search", device=self.device)[self.task.score_name]}

    def network(self, start: EndState) -> Network:
        """Return the network that a finalist's training starts from."""
        tensors, data = unpack_checkpoint(start.content)
        return restore(self.task, data["transformations"], tensors)
