"""Pack a trial evaluator for another process, in which it gives the same results."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evaluators.task import Task
from evaluators.training.checkpoint import Checkpoint, pack_checkpoint, unpack_checkpoint
from evaluators.training.ranks import Ranks
from search.executors.base import Evaluate, Job
from search.executors.trial_checkpoints import EndState
from search.run.network import Network, restore
from search.study.trial import Trial
from spaces.errors import SecateursError


class ShipmentError(SecateursError):
    """Difference between a worker's data or model and the driver's."""


class Evaluation(Protocol):
    """Evaluation that can be shipped: a dataclass that has network, task and device under these names."""

    @property
    def model(self) -> nn.Module:
        """The network, which is sent as structure and weights."""

    @property
    def task(self) -> Task:
        """The task, which the other process builds anew."""

    @property
    def device(self) -> torch.device:
        """The device, in place of which the other process has its own."""

    def evaluate(self, job: Job, checkpoint: Checkpoint | None = None, start: EndState | None = None) -> Trial:
        """Return the trial of a job."""

    def among(self, ranks: Ranks) -> Evaluation:
        """Return the same evaluation for one of several processes that train together."""


@dataclass(frozen=True)
class Shipment:
    """Trial evaluator without the parts that the other process makes itself (the task, the network's structure).

    The space is sent as it is, with all its measurements: measured again on another kind of machine, the last bits might
    differ.

    Attributes:
        evaluator: The trial evaluator, pickled for the wire; task, device, network and what is on an accelerator are left out.
        network: Weights and the changes of structure, packed.
        placed: Tensors that belong on the device, packed.
        build_task: Returns the task; it finds its data where the other process is.
        fingerprint: The task's fingerprint.
        device: Where networks run there.
        threads: Torch threads to evaluate with.
    """

    evaluator: bytes
    network: bytes
    placed: bytes
    build_task: Callable[[], Task]
    fingerprint: str
    device: str
    threads: int

    def __call__(self) -> Evaluate:
        """Return the trial evaluator's ``evaluate``, in this process.

        Raises:
            ShipmentError: Model or data are not the driver's.
        """
        return self.evaluation().evaluate

    def evaluation(self) -> Evaluation:
        """Return the trial evaluator, in this process.

        Raises:
            ShipmentError: Model or data are not the driver's.
        """
        torch.set_num_threads(self.threads)
        task = same_task(self.build_task, self.fingerprint)
        device = torch.device(self.device)
        tensors, data = unpack_checkpoint(self.network)
        network = restore(task, data["transformations"], tensors)
        network.model.to(device).eval()
        placed = {name: tensor.to(device) for name, tensor in unpack_checkpoint(self.placed)[0].items()}
        kept = {"task": task, "device": device}
        reader = _Reader(io.BytesIO(self.evaluator), kept, _parts(network), placed)
        evaluator: Evaluation = reader.load()
        return evaluator


def same_task(build_task: Callable[[], Task], fingerprint: str) -> Task:
    """Return the driver's task, built in this process.

    Args:
        build_task: Returns the task; it finds its data where this process is.
        fingerprint: The fingerprint of the driver's.

    Raises:
        ShipmentError: Model or data are others here.
    """
    task = build_task()
    if task.fingerprint != fingerprint:
        raise ShipmentError(
            f"a worker on {os.uname().nodename} has another model or other data than the driver: task has fingerprint "
            f"{task.fingerprint} there and {fingerprint} here; every node needs the same checkpoint, data and code"
        )
    return task


def ship(
    evaluator: Evaluation,
    transformations: Sequence[dict[str, Any]],
    build_task: Callable[[], Task],
    threads: int,
    device: str,
) -> Shipment:
    """Return ``evaluator`` as a shipment.

    Args:
        evaluator: Builds, trains and measures a candidate.
        transformations: How the structure of its network came from the task's own.
        build_task: Returns the task, in any process.
        device: The configuration's device.
        threads: Torch threads to evaluate with.
    """
    network = Network(evaluator.model, tuple(transformations))
    placed: dict[str, Tensor] = {}
    buffer = io.BytesIO()
    _writer(buffer, {"task": evaluator.task, "device": evaluator.device}, _parts(network), placed).dump(evaluator)
    return Shipment(
        evaluator=buffer.getvalue(),
        network=pack_checkpoint(network.tensors(), {"transformations": list(transformations)}),
        placed=pack_checkpoint(placed, {}),
        build_task=build_task,
        fingerprint=evaluator.task.fingerprint,
        device=device,
        threads=threads,
    )


def _parts(network: Network) -> dict[str, Any]:
    """Return every module, parameter and buffer of a network, by kind and name."""
    model = network.model
    modules = {f"module {name}": module for name, module in model.named_modules()}
    return {
        **modules,
        **{f"tensor {name}": tensor for name, tensor in model.named_parameters()},
        **{f"tensor {name}": tensor for name, tensor in model.named_buffers()},
    }


def _writer(buffer: io.BytesIO, kept: dict[str, Any], parts: dict[str, Any], placed: dict[str, Tensor]) -> Any:
    from cloudpickle import Pickler

    names = {id(value): name for name, value in {**parts, **kept}.items()}

    class Writer(Pickler):  # type: ignore[misc]
        """Pickler that leaves out the parts that the other process has."""

        def persistent_id(self, value: object) -> str | None:
            if id(value) in names:
                return names[id(value)]
            if isinstance(value, torch.device) and value == kept["device"]:
                return "device"
            if isinstance(value, Tensor) and value.device.type != "cpu":
                names[id(value)] = name = f"placed {len(placed)}"
                placed[name] = value
                return name
            return None

    return Writer(buffer)


class _Reader(pickle.Unpickler):
    """Unpickler that puts in the parts that :func:`_writer` leaves out."""

    def __init__(self, buffer: io.BytesIO, *there: dict[str, Any]) -> None:
        super().__init__(buffer)
        self._there = {name: value for values in there for name, value in values.items()}

    def persistent_load(self, name: str) -> Any:
        return self._there[name]
