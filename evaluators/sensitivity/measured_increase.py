"""Measure the loss increase when one decision alone is quantized: the ground truth for the Omega estimate."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evaluators.task import Batch, Task
from spaces.execution.batch import count_samples
from spaces.execution.evaluation_mode import evaluation_mode

Prepare = Callable[[Mapping[str, int]], nn.Module]
"""Builds the quantized network from the bits of every decision."""


@dataclass(frozen=True)
class Increase:
    """A measured rise of the mean loss.

    Attributes:
        value: Mean over the samples.
        standard_error: Standard error of ``value``, from the differences batch by batch.
    """

    value: float
    standard_error: float


def loss_increases(
    prepare: Prepare, most: Mapping[str, int], bits: Mapping[str, int], task: Task, batches: Sequence[Batch]
) -> dict[str, Increase]:
    """Return the rise of the mean loss for every decision in ``bits`` when that decision alone is lowered.

    Args:
        prepare: Builds the quantized network of a choice of bits, on the batches' device.
        most: Highest number of bits of every decision, the starting point.
        bits: Number of bits to lower each of these decisions to.
        task: Loss and forward pass.
        batches: At least two batches of inputs and targets.
    """

    def losses(network: nn.Module) -> list[float]:
        answers = _answers(network, task, batches)
        return [float(task.loss(outputs, targets)) for outputs, (_, targets) in zip(answers, batches, strict=True)]

    base = losses(prepare(most))
    found = {}
    for decision, count in bits.items():
        found[decision] = _increase(losses(prepare({**most, decision: count})), base, batches)
    return found


def divergence_table(
    prepare: Prepare,
    most: Mapping[str, int],
    options: Mapping[str, Sequence[int]],
    reference: nn.Module,
    task: Task,
    batches: Sequence[Batch],
) -> dict[str, dict[int, float]]:
    """Return the rise of the distance between quantized and reference outputs for every choice of bits (ours).

    The distance is the task's :meth:`~evaluators.task.Task.distillation_loss` at temperature 1; for a classification the KL
    divergence, in nats, whose second order is the whole quadratic form of the Gauss-Newton matrix; sensitivities of single
    weights cover its diagonal only. One forward pass per choice; no label is read, so that labels add no noise.

    Args:
        prepare: Builds the quantized network of a choice of bits, on the batches' device.
        most: Highest number of bits of every decision, the starting point.
        options: All numbers of bits of each decision.
        reference: The network without quantization.
        task: Distance and forward pass.
        batches: Inputs and targets.
    """
    expected = list(_answers(reference, task, batches))
    base = _distance(prepare(most), expected, task, batches)
    table = {}
    for decision, counts in options.items():
        rises = {}
        for count in counts:
            changed = {**most, decision: count}
            distance = base if changed == dict(most) else _distance(prepare(changed), expected, task, batches)
            rises[int(count)] = max(0.0, distance - base)
        table[decision] = rises
    return table


def divergence(model: nn.Module, reference: nn.Module, task: Task, batches: Sequence[Batch]) -> float:
    """Return the mean distance between two networks' outputs, as in :func:`divergence_table`."""
    return _distance(model, list(_answers(reference, task, batches)), task, batches)


def _distance(model: nn.Module, expected: Sequence[Any], task: Task, batches: Sequence[Batch]) -> float:
    total, samples = 0.0, 0
    for answers, wanted, (inputs, targets) in zip(_answers(model, task, batches), expected, batches, strict=True):
        number = task.count(inputs, targets)
        total += float(task.distillation_loss(answers, wanted, 1.0)) * number
        samples += number
    return total / samples


def _answers(model: nn.Module, task: Task, batches: Sequence[Batch]) -> Iterator[Any]:
    with evaluation_mode(model):
        for inputs, _ in batches:
            with torch.no_grad():
                answers = task.forward(model, inputs)
            yield answers


def _increase(after: Sequence[float], before: Sequence[float], batches: Sequence[Batch]) -> Increase:
    changes = [one - other for one, other in zip(after, before, strict=True)]
    sizes = [count_samples(inputs) for inputs, _ in batches]
    mean = sum(change * size for change, size in zip(changes, sizes, strict=True)) / sum(sizes)
    return Increase(mean, statistics.stdev(changes) / len(changes) ** 0.5)
