"""BatchNorm re-calibration: statistics of a changed network, measured again on batches of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from spaces.layers.batch_norm import measure_statistics


def recalibrate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    forward: Callable[[nn.Module, Tensor], Tensor],
    device: torch.device | None = None,
) -> None:
    """Replace the running statistics of every BatchNorm layer by their plain average over ``batches``.

    See :func:`spaces.layers.batch_norm.measure_statistics`.

    Args:
        model: The network; its running statistics change in place.
        batches: ``(inputs, targets)`` pairs; the targets are not used.
        forward: Runs the network on inputs of shape ``(N, ...)``, usually ``task.forward``.
        device: Where the inputs go; by default where the network's first parameter is.
    """
    parameter = next(model.parameters(), None)
    place = device if device is not None else parameter.device if parameter is not None else torch.device("cpu")
    measure_statistics(model, (to_device(inputs, place) for inputs, _ in batches), forward)


def whole_batches(available: int, batch_size: int, batches: int) -> tuple[int, int]:
    """Return how many batches of how many samples to measure on: a rest of a batch would count as much as a full one."""
    size = min(batch_size, available)
    return min(batches, available // size), size


def to_device(inputs: Tensor, device: torch.device, channels_last: bool = True) -> Tensor:
    """Return ``inputs`` on ``device``, images of shape ``(N, C, H, W)`` in channels-last layout where asked."""
    if channels_last and inputs.ndim == 4:
        return inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
    return inputs.to(device, non_blocking=True)
