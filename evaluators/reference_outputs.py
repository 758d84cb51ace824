"""Outputs of the dense network on samples of a task, held in memory with their inputs, to compare smaller networks with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.output_distance import Distance, Measure, distance_of
from evaluators.task import MeasurementError, Split, Task
from spaces.execution.batch import (
    BatchError,
    Nested,
    count_samples,
    join,
    map_tensors,
    named_tensors,
    reorder,
    select,
    to_device,
)
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.replay import Recording
from spaces.layers.batch_norm import batch_statistics

MOST_BYTES = 2**30
"""Most bytes of the stored outputs, and of the inputs that belong to them."""

MOST_RECORDED = 2**29
"""Most bytes of the outputs of layers that networks with the same beginning share."""


@dataclass(frozen=True)
class _Chunk:
    """Samples of one shape, with what is stored of the dense network's outputs on them."""

    inputs: Nested
    stored: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.stored[0])


class ReferenceOutputs:
    """Outputs of one network on the first samples of a split, in evaluation mode.

    Fewer samples are held than asked for where their inputs, or what is stored of the outputs, would exceed
    :data:`MOST_BYTES`.

    Args:
        model: The dense network; left unchanged.
        task: Data and forward pass.
        split: Which samples.
        samples: Number of samples.
        measure: What is compared.
        batch_size: Samples per forward pass.
        device: Where to run.

    Attributes:
        samples: Number of samples asked for.
    """

    def __init__(
        self, model: nn.Module, task: Task, split: Split, samples: int, measure: Measure, batch_size: int, device: torch.device
    ) -> None:
        self.samples = samples
        self._task, self._device, self._batch_size = task, device, batch_size
        self._distance: Distance | None = None
        model.to(device)
        found: list[_Chunk] = []
        batches = iter(task.batches(split, batch_size, limit=samples))
        with evaluation_mode(model), torch.inference_mode():
            room = samples
            for inputs, targets in batches:
                # Networks may write into their inputs: what is held is a copy, made before.
                held = map_tensors(torch.clone, to_device(inputs, device))
                inputs = to_device(inputs, device, channels_last=True)
                outputs = task.forward(model, inputs)
                if self._distance is None:
                    self._distance, room = _chosen(distance_of(measure, outputs, inputs, targets), outputs, inputs, samples)
                stored = tuple(one[:room].clone() for one in self._distance.stored(outputs))
                found.append(_Chunk(select(held, 0, len(stored[0])), stored))
                room -= len(found[-1])
                if room <= 0:
                    break
        if self._distance is None:
            raise MeasurementError(f"the task gave no sample of its {split} split (limit {samples})")
        self._distance.settle([chunk.stored for chunk in found])
        self._chunks = _joined(found)

    def __len__(self) -> int:
        """Return the number of samples held."""
        return sum(map(len, self._chunks))

    def record(self, model: nn.Module, places: Tensor) -> list[Recording]:
        """Return what the layers of a network give on samples, batch by batch, for :meth:`distances` of networks like it.

        Args:
            model: The network, in evaluation mode meanwhile; left unchanged.
            places: Places of samples, int64 of shape ``(M,)``.
        """
        most = MOST_RECORDED / max(1, -(-len(places) // self._batch_size))
        with evaluation_mode(model), torch.inference_mode():
            return [Recording(model, self._run_on(inputs), most) for inputs, _ in self._batches(places)]

    def distances(
        self, model: nn.Module, places: Tensor, own_statistics: bool = False, recorded: Sequence[Recording] = ()
    ) -> Tensor:
        """Return the distance of a network's outputs from the stored ones, float64 of shape ``(M,)``, in no stated order.

        Args:
            model: The network, in evaluation mode meanwhile; left unchanged.
            places: Places of samples, int64 of shape ``(M,)``.
            own_statistics: Let BatchNorm layers whose statistics are not kept take those of each batch.
            recorded: What :meth:`record` has returned for the same places: what the network has in common with the one that
                was recorded is not run again.

        Raises:
            MeasurementError: Its outputs have other shapes.
        """
        if self._distance is None:
            raise MeasurementError("the outputs of the dense network are not there")
        found = []
        mode = batch_statistics if own_statistics else evaluation_mode
        with mode(model), torch.inference_mode():
            for number, (inputs, stored) in enumerate(self._batches(places)):
                with recorded[number].shared_with(model) if recorded else nullcontext():
                    outputs = self._run_on(inputs)(model)
                found.append(self._distance.of(outputs, stored).double().cpu())
        return torch.cat(found)

    def _run_on(self, inputs: Nested) -> Callable[[nn.Module], Any]:
        """Return what runs a network on a batch."""
        return lambda model: self._task.forward(model, to_device(inputs, self._device, channels_last=True))

    def _batches(self, places: Tensor) -> Iterator[tuple[Nested, Sequence[Tensor]]]:
        first = 0
        for chunk in self._chunks:
            own = places[(places >= first) & (places < first + len(chunk))] - first
            first += len(chunk)
            for some in torch.split(own, self._batch_size):
                index = some.to(self._device)
                yield reorder(chunk.inputs, index), [one[index] for one in chunk.stored]


def _chosen(distance: Distance, outputs: Any, inputs: Nested, samples: int) -> tuple[Distance, int]:
    """Return the distance, storing less where all of ``samples`` would take too much, and the number of samples to hold."""
    count = count_samples(inputs)

    def most(tensors: Sequence[Tensor]) -> int:
        return MOST_BYTES * count // max(1, sum(one.numel() * one.element_size() for one in tensors))

    if most(distance.stored(outputs)) < samples:
        distance = distance.smaller()
    held = [tensor for _, tensor in named_tensors(inputs)]
    return distance, max(1, min(samples, most(held), most(distance.stored(outputs))))


def _joined(chunks: list[_Chunk]) -> list[_Chunk]:
    """Return the chunks as one, where samples are all of one shape."""
    shapes = {tuple(one.shape[1:] for one in chunk.stored) for chunk in chunks}
    try:
        inputs = join([chunk.inputs for chunk in chunks])
    except BatchError:
        return chunks
    if len(shapes) > 1 or count_samples(inputs) != sum(map(len, chunks)):
        return chunks
    return [_Chunk(inputs, tuple(torch.cat(column) for column in zip(*(c.stored for c in chunks), strict=True)))]
