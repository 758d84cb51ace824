"""The training of one network, packed for the processes that carry it out together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from evaluators.task import Task
from evaluators.training.checkpoint import Checkpoint, pack_checkpoint, unpack_checkpoint
from evaluators.training.loop import EpochRecord, TrainingError, train
from evaluators.training.ranks import Ranks, require_ranks
from evaluators.training.settings import TrainingSettings
from search.executors.base import Job
from search.executors.shipment import Evaluation, Shipment, same_task
from search.executors.trial_checkpoints import EndState
from search.run.network import Network, restore
from search.run.stage_run import device_of
from search.study.trial import Trial
from spaces.channels.surgery import Cut
from spaces.sparsifiers.base import Sparsifier


@dataclass(frozen=True)
class PackedTraining:
    """A training without what the other processes make themselves: the task, the structure of networks.

    Attributes:
        network: Weights and changes of structure of the network, packed.
        teacher: Those of the network to learn from; None without distillation.
        cuts: Cuts between the two, in order.
        sparsifier: The sparsifier, which has seen no network yet; None without one.
        settings: The training.
        seed: Its seed.
        build_task: Returns the task; it finds its data where the other process is.
        fingerprint: The task's fingerprint.
        device: The configuration's device.
        threads: Torch threads of each process.
    """

    network: bytes
    teacher: bytes | None
    cuts: Sequence[Cut]
    sparsifier: Sparsifier | None
    settings: TrainingSettings
    seed: int
    build_task: Callable[[], Task]
    fingerprint: str
    device: str
    threads: int

    def allows(self, ranks: int) -> bool:
        """Return True if so many processes train the same network."""
        return allows(self.settings, ranks)

    def __call__(self) -> RankTraining:
        """Return the training with its networks and data, in this process.

        Raises:
            ShipmentError: Model or data are not the driver's.
        """
        torch.set_num_threads(self.threads)
        task = same_task(self.build_task, self.fingerprint)
        teacher = None if self.teacher is None else unpacked(self.teacher, task)
        device = device_of(self.device)
        model = unpacked(self.network, task)
        return RankTraining(model, teacher, self.cuts, self.sparsifier, task, self.settings, self.seed, device)


@dataclass(frozen=True)
class RankTraining:
    """A training in one of its processes.

    Attributes:
        model: The network.
        teacher: The network to learn from, or None.
        cuts: Cuts between the two, in order.
        sparsifier: The sparsifier, or None.
        task: Data, loss and score.
        settings: The training.
        seed: Its seed.
        device: Where it runs.
    """

    model: nn.Module
    teacher: nn.Module | None
    cuts: Sequence[Cut]
    sparsifier: Sparsifier | None
    task: Task
    settings: TrainingSettings
    seed: int
    device: torch.device

    @property
    def on_accelerator(self) -> bool:
        """True for a training on CUDA devices."""
        return self.device.type == "cuda"

    def __call__(self, order: None, checkpoint: Checkpoint, ranks: Ranks, on_epoch: Callable[[EpochRecord], None]) -> None:
        """Train; all that comes of it is what the first process saves."""
        train(
            self.model,
            self.task,
            self.settings,
            seed=self.seed,
            device=self.device,
            checkpoint=checkpoint,
            sparsifier=copy.copy(self.sparsifier),
            teacher=self.teacher,
            cuts=self.cuts,
            on_epoch=on_epoch,
            ranks=ranks,
        )


@dataclass(frozen=True)
class PackedEvaluation:
    """Evaluation of jobs that train, for processes that train together.

    Attributes:
        shipment: The evaluation.
        device: The configuration's device.
        settings: The training of every job; None where jobs don't train.
    """

    shipment: Shipment
    device: str
    settings: TrainingSettings | None

    def allows(self, ranks: int) -> bool:
        """Return True if so many processes train the same network."""
        return self.settings is not None and allows(self.settings, ranks)

    def __call__(self) -> RankEvaluation:
        """Return the evaluation with its network and data, in this process.

        Raises:
            ShipmentError: Model or data are not the driver's.
        """
        return RankEvaluation(replace(self.shipment, device=str(device_of(self.device))).evaluation())


@dataclass(frozen=True)
class RankEvaluation:
    """Evaluation of jobs in one of the processes that train together.

    Attributes:
        evaluation: What every process carries out; the first one alone measures.
    """

    evaluation: Evaluation

    @property
    def on_accelerator(self) -> bool:
        """True for trainings on CUDA devices."""
        return self.evaluation.device.type == "cuda"

    def __call__(self, order: Order, checkpoint: Checkpoint, ranks: Ranks, on_epoch: Callable[[EpochRecord], None]) -> Trial:
        """Return the trial of a job, which only the first process has measured."""
        return self.evaluation.among(ranks).evaluate(order.job, checkpoint, order.start)


@dataclass(frozen=True)
class Order:
    """Job on its way to the processes that evaluate it together.

    Attributes:
        job: The job.
        start: End state that its training starts from; None for none.
    """

    job: Job
    start: EndState | None


def allows(settings: TrainingSettings, ranks: int) -> bool:
    """Return True if so many processes can share the batches of a training, and their number changes nothing."""
    try:
        require_ranks(settings, ranks)
    except TrainingError:
        return False
    return settings.batch_norm != "per_rank"


def packed(network: Network) -> bytes:
    """Return weights and changes of structure of a network."""
    return pack_checkpoint(network.tensors(), {"transformations": list(network.transformations)})


def unpacked(content: bytes, task: Task) -> nn.Module:
    """Return the network of ``task`` that :func:`packed` has packed."""
    tensors, data = unpack_checkpoint(content)
    transformations: Sequence[dict[str, Any]] = data["transformations"]
    return restore(task, transformations, tensors).model
