"""Measure the BatchNorm statistics of a changed network again, on batches of a task."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from spaces.execution.batch import Nested, to_device
from spaces.execution.forward import Forward
from spaces.layers.batch_norm import measure_statistics


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
