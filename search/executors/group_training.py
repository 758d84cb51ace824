"""The training of one network, packed for the processes that carry it out together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from evaluators.task import Task
from evaluators.training.checkpoint import Checkpoint, pack_checkpoint, unpack_checkpoint
from evaluators.training.loop import EpochRecord, History, train
from evaluators.training.ranks import Ranks
from evaluators.training.settings import TrainingSettings
from search.executors.shipment import same_task
from search.run.network import Network, restore
from search.run.stage_run import device_of


@dataclass(frozen=True)
class PackedTraining:
    """A training without what the other processes make themselves: the task, the structure of networks.

    Attributes:
        network: Weights and changes of structure of the network, packed.
        teacher: Those of the network to learn from; None without distillation.
        settings: The training.
        seed: Its seed.
        build_task: Returns the task; it finds its data where the other process is.
        fingerprint: The task's fingerprint.
        device: The configuration's device.
        threads: Torch threads of each process.
    """

    network: bytes
    teacher: bytes | None
    settings: TrainingSettings
    seed: int
    build_task: Callable[[], Task]
    fingerprint: str
    device: str
    threads: int

    def __call__(self) -> RankTraining:
        """Return the training with its networks and data, in this process.

        Raises:
            ShipmentError: Model or data are not the driver's.
        """
        torch.set_num_threads(self.threads)
        task = same_task(self.build_task, self.fingerprint)
        teacher = None if self.teacher is None else unpacked(self.teacher, task)
        device = device_of(self.device)
        return RankTraining(unpacked(self.network, task), teacher, task, self.settings, self.seed, device)


@dataclass(frozen=True)
class RankTraining:
    """A training in one of its processes.

    Attributes:
        model: The network.
        teacher: The network to learn from, or None.
        task: Data, loss and score.
        settings: The training.
        seed: Its seed.
        device: Where it runs.
    """

    model: nn.Module
    teacher: nn.Module | None
    task: Task
    settings: TrainingSettings
    seed: int
    device: torch.device

    @property
    def on_accelerator(self) -> bool:
        """True for a training on CUDA devices."""
        return self.device.type == "cuda"

    def __call__(self, checkpoint: Checkpoint, ranks: Ranks, on_epoch: Callable[[EpochRecord], None]) -> tuple[bytes, History]:
        """Train, and return the weights, packed, and the history."""
        history = train(
            self.model,
            self.task,
            self.settings,
            seed=self.seed,
            device=self.device,
            checkpoint=checkpoint,
            teacher=self.teacher,
            on_epoch=on_epoch,
            ranks=ranks,
        )
        if history.optimizer is not None:
            # On the wire, tensors are the CPU's.
            tensors = {name: tensor.cpu() for name, tensor in history.optimizer.tensors.items()}
            history.optimizer = replace(history.optimizer, tensors=tensors)
        return pack_checkpoint(Network(self.model).tensors(), {}), history


def packed(network: Network) -> bytes:
    """Return weights and changes of structure of a network."""
    return pack_checkpoint(network.tensors(), {"transformations": list(network.transformations)})


def unpacked(content: bytes, task: Task) -> nn.Module:
    """Return the network of ``task`` that :func:`packed` has packed."""
    tensors, data = unpack_checkpoint(content)
    transformations: Sequence[dict[str, Any]] = data["transformations"]
    return restore(task, transformations, tensors).model
