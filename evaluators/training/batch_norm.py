"""BatchNorm re-calibration: statistics of a changed network, measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    forward: Callable[[nn.Module, Tensor], Tensor],
    device: torch.device | None = None,
) -> None:
    """Replace the running statistics of every BatchNorm layer by their plain average over ``batches``.

    Every batch counts the same. Only the BatchNorm layers are in training mode meanwhile (dropout is off); modes and
    momenta are as before afterwards. A network without running statistics is left alone, and ``batches`` is not read.
    Slimmable networks do the same (Yu, Huang 2019, arXiv 1903.05134, section 3.4).

    Args:
        model: The network; its running statistics change in place.
        batches: ``(inputs, targets)`` pairs; the targets are not used.
        forward: Runs the network on inputs of shape ``(N, ...)``, usually ``task.forward``.
        device: Where the inputs go; by default where the network's first parameter is.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not layers:
        return
    device = device if device is not None else next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    model.eval()
    try:
        reset = False
        for inputs, _ in batches:
            if not reset:
                for layer in layers:
                    layer.reset_running_stats()
                    layer.momentum = None
                    layer.train()
                reset = True
            forward(model, to_device(inputs, device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def to_device(inputs: Tensor, device: torch.device, channels_last: bool = True) -> Tensor:
    """Return ``inputs`` on ``device``, images of shape ``(N, C, H, W)`` in channels-last layout where asked."""
    if channels_last and inputs.ndim == 4:
        return inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
    return inputs.to(device, non_blocking=True)
