"""Loss and scores of a network on a split of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.meters import Meter
from evaluators.task import Batch, MeasurementError, Split, Task
from evaluators.tasks.answers import Answers
from evaluators.tasks.bootstrap import Bootstrap
from spaces.execution.batch import Nested, to_device
from spaces.execution.evaluation_mode import evaluation_mode

Seen = Callable[[Nested, Any, Nested, int, Mapping[str, Tensor]], None]
"""Takes inputs, outputs, targets, number of samples and scores of every batch."""


@dataclass(frozen=True)
class Measured:
    """Figures of a network on a split.

    Attributes:
        values: Loss and scores by name, as :func:`measure` returns them.
        standard_errors: Standard errors of the scores, as far as they are known.
        resamples: Number of draws behind the standard errors of metrics that accumulate; None without such a metric.
    """

    values: dict[str, float]
    standard_errors: dict[str, float]
    resamples: int | None = None


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
        limit: Only the first so many samples of the split's fixed order, or of the one that is drawn; of that, fewer by less
            than the number of batches.
        generator: Draws the samples; None for their fixed order.

    Raises:
        MeasurementError: The task's score or loss returns something else than tensors, or its main score is missing.
    """
    found = _measured(model, task, _batches(task, split, batch_size, limit, generator), device)
    if not found:
        raise ValueError(f"the task gave no sample of its {split} split (limit {limit})")
    return found


def measure_with_errors(
    model: nn.Module,
    task: Task,
    split: Split,
    batch_size: int = 256,
    device: torch.device | None = None,
    answers: Answers | None = None,
) -> Measured:
    """Return what :func:`measure` does over the whole ``split``, with standard errors.

    That of a mean over samples is their standard deviation over the root of their number; that of a metric that accumulates
    is found by :class:`.Bootstrap`. That of the loss is known where it is a score of every sample.

    Args:
        model: The network, as :func:`measure` takes it.
        task: Data, loss and score.
        split: Which samples.
        batch_size: Samples per forward pass.
        device: Where to run; by default where the network's first parameter is.
        answers: Place of the answers, sample by sample; None for none.
    """
    bootstrap = Bootstrap(task.meters, task.size(split)) if task.meters() else None
    squares: dict[str, float] = {}
    counted = 0

    def seen(inputs: Nested, outputs: Any, expected: Nested, samples: int, scores: Mapping[str, Tensor]) -> None:
        nonlocal counted
        counted += samples
        if answers is not None:
            answers.add(inputs, outputs, expected)
        if bootstrap is not None:
            bootstrap.add(outputs, expected, samples)
        for name, score in scores.items():
            square = float(score.square().sum()) if score.numel() == samples else math.nan
            squares[name] = squares.get(name, 0.0) + square

    values = _measured(model, task, _batches(task, split, batch_size, None, None), device, seen)
    errors: dict[str, float] = {}
    for name, square in squares.items() if task.scores_by_sample and counted > 1 else ():
        variance = square / counted - values[name] ** 2
        if math.isfinite(variance):
            errors[name] = math.sqrt(max(variance, 0.0) / (counted - 1))
    if bootstrap is None:
        return Measured(values, errors)
    return Measured(values, errors | bootstrap.errors(values), bootstrap.resamples)


def _measured(
    model: nn.Module, task: Task, batches: Iterable[Batch], device: torch.device | None, seen: Seen | None = None
) -> dict[str, float]:
    """Return the figures of :func:`measure` over batches, none without a sample; every batch is shown to ``seen``."""
    device = device if device is not None else next(model.parameters()).device
    model.to(device)
    sums: dict[str, Tensor] = {}
    meters = task.meters()
    samples = 0
    with evaluation_mode(model):
        for inputs, targets in batches:
            with torch.inference_mode():
                expected, number = to_device(targets, device), task.count(inputs, targets)
                given = to_device(inputs, device, channels_last=True)
                outputs = task.forward(model, given)
                for meter in meters.values():
                    meter.update(outputs, expected)
                scores = scores_of(task, outputs, expected, meters)
                found = {name: values.sum() for name, values in scores.items()}
                losses = task.forward(model, task.loss_inputs(given, expected)) if task.model_gives_losses else outputs
                found["loss"] = _tensor("loss", task.loss(losses, expected)).double() * number
                for name, value in found.items():
                    sums[name] = sums[name] + value if name in sums else value
                if seen is not None:
                    seen(inputs, outputs, expected, number, scores)
            samples += number
    if samples == 0:
        return {}
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
    # Of a drawn order an incomplete batch is dropped, so that batches are of one size, which takes all but a few samples.
    number = math.ceil(most / batch_size)
    yield from islice(task.batches(split, most // number, generator), number)


def scores_of(task: Task, outputs: Any, expected: Nested, meters: Mapping[str, Meter]) -> dict[str, Tensor]:
    """Return the scores of a batch by name, a value per sample, in double precision.

    Raises:
        MeasurementError: They are no tensors by name, or the main score is neither among them nor among ``meters``.
    """
    scores = task.score(outputs, expected)
    if not isinstance(scores, Mapping):
        raise MeasurementError(f"score: expected a tensor of shape (N,) by name, got {scores!r}")
    if task.score_name not in {*scores, *meters} and not (task.model_gives_losses and task.score_name == "loss"):
        raise MeasurementError(f"score: expected {task.score_name} among the scores, got {list(scores)}")
    return {name: _tensor(f"score {name}", values).double() for name, values in scores.items()}


def _tensor(what: str, found: object) -> Tensor:
    if not isinstance(found, Tensor):
        raise MeasurementError(f"{what}: expected a tensor, got {found!r}")
    return found
