"""Measure the BatchNorm statistics of a changed network again, on batches of a task."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from evaluators.task import Task
from evaluators.tasks.batches import whole_batches
from spaces.execution.batch import Nested, to_device
from spaces.execution.forward import Forward
from spaces.layers.batch_norm import measure_statistics

_LEAST_SAMPLES = 64


def recalibrate(
    model: nn.Module,
    batches: Iterable[tuple[Nested, Nested]],
    forward: Forward,
    device: torch.device | None = None,
) -> None:
    """Replace the running statistics of every BatchNorm layer by their plain average over ``batches``.

    See :func:`spaces.layers.batch_norm.measure_statistics`.

    Args:
        model: The network; its running statistics change in place.
        batches: Pairs ``(inputs, targets)``; targets are not used.
        forward: Runs the network on inputs, usually ``task.forward``.
        device: Device to move inputs to; by default that of the network's first parameter.
    """
    parameter = next(model.parameters(), None)
    place = device if device is not None else parameter.device if parameter is not None else torch.device("cpu")
    measure_statistics(model, (to_device(inputs, place, channels_last=True) for inputs, _ in batches), forward)


def recalibrate_for(
    task: Task, model: nn.Module, batches: int, batch_size: int, fidelity: float, device: torch.device | None = None
) -> None:
    """Measure the statistics of ``model`` again before it is measured at a fidelity, as :func:`recalibrate` does.

    Args:
        task: Gives the training batches, in their fixed order.
        model: The network; its running statistics change in place.
        batches: Number of batches at full fidelity; 0 to keep the statistics.
        batch_size: Samples of a batch.
        fidelity: Share of the samples, in (0, 1]: fewer batches, at least two (if any), and where two are too many, smaller
            ones of at least 64 samples.
        device: Device to move inputs to.
    """
    count, size = _share(task.size("train"), batches, batch_size, fidelity) if batches else (0, 0)
    if count:
        recalibrate(model, task.batches("train", size, limit=count * size), task.forward, device)


def _share(available: int, batches: int, batch_size: int, fidelity: float) -> tuple[int, int]:
    """Return the number of batches, and of samples in each."""
    count, size = whole_batches(available, batch_size, batches)
    samples = fidelity * count * size
    fewer = min(count, max(2, math.ceil(samples / size)))
    if fidelity == 1.0 or fewer == 0:
        return count, size
    return fewer, min(size, max(_LEAST_SAMPLES, math.ceil(samples / fewer)))
