"""Loss and scores of a network on a split of a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.meters import Meter
from evaluators.task import Batch, MeasurementError, Split, Task
from spaces.execution.batch import Nested, to_device
from spaces.execution.evaluation_mode import evaluation_mode


def measure(
    model: nn.Module,
    task: Task,
    split: Split,
    batch_size: int = 256,
    device: torch.device | None = None,
    limit: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Return the mean loss (``loss``), the mean of every score of ``task`` and its metrics that accumulate, over ``split``.

    Args:
        model: The network, evaluated as it is, in float32, in evaluation mode; left unchanged.
        task: Data, loss and score.
        split: Which samples.
        batch_size: Samples per forward pass.
        device: Where to run; by default where the network's first parameter is.
        limit: Only the first so many samples of the split's fixed order, or of the one that is drawn.
        generator: Draws the samples; None for their fixed order.

    Raises:
        MeasurementError: The task's score or loss returns something else than tensors, or its main score is missing.
    """
    device = device if device is not None else next(model.parameters()).device
    model.to(device)
    sums: dict[str, Tensor] = {}
    meters = task.meters()
    samples = 0
    with evaluation_mode(model):
        for inputs, targets in _batches(task, split, batch_size, limit, generator):
            with torch.inference_mode():
                expected, number = to_device(targets, device), task.count(inputs, targets)
                outputs = task.forward(model, to_device(inputs, device, channels_last=True))
                for meter in meters.values():
                    meter.update(outputs, expected)
                found = _sums(task, outputs, expected, meters)
                found["loss"] = _tensor("loss", task.loss(outputs, expected)).double() * number
                for name, value in found.items():
                    sums[name] = sums[name] + value if name in sums else value
            samples += number
    if samples == 0:
        raise ValueError(f"the task gave no sample of its {split} split (limit {limit})")
    means = {name: float(value) / samples for name, value in sums.items()}
    return means | {name: meter.compute() for name, meter in meters.items()}


def _batches(
    task: Task, split: Split, batch_size: int, limit: int | None, generator: torch.Generator | None
) -> Iterable[Batch]:
    """Yield the batches that are measured."""
    if generator is None:
        yield from task.batches(split, batch_size, limit=limit)
        return
    most = task.size(split) if limit is None else min(limit, task.size(split))
    # Of a drawn order an incomplete batch is dropped, so that batches are no larger than what is left to read.
    size = min(batch_size, most)
    yield from islice(task.batches(split, size, generator), math.ceil(most / size))


def _sums(task: Task, outputs: Any, expected: Nested, meters: Mapping[str, Meter]) -> dict[str, Tensor]:
    """Return the sum of every score over the samples of a batch, a scalar in double precision."""
    scores = task.score(outputs, expected)
    if not isinstance(scores, Mapping):
        raise MeasurementError(f"score: expected a tensor of shape (N,) by name, got {scores!r}")
    if task.score_name not in scores and task.score_name not in meters:
        raise MeasurementError(f"score: expected {task.score_name} among the scores, got {list(scores)}")
    return {name: _tensor(f"score {name}", values).double().sum() for name, values in scores.items()}


def _tensor(what: str, found: object) -> Tensor:
    if not isinstance(found, Tensor):
        raise MeasurementError(f"{what}: expected a tensor, got {found!r}")
    return found
