"""Statistics of BatchNorm: measured again on a changed network, or kept for good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward

KEPT = "secateurs_statistics_kept"
"""Attribute of a BatchNorm layer whose statistics are never measured again."""


def keep_statistics(model: nn.Module) -> None:
    """Let :func:`measure_statistics` leave running statistics of ``model`` and its clones alone, until :func:`open_statistics`.

    A network whose weights were solved for with its statistics is spoilt by others.
    """
    for layer in _tracking(model):
        setattr(layer, KEPT, True)


def open_statistics(model: nn.Module) -> None:
    """Undo :func:`keep_statistics`, for a network whose channels have changed again."""
    for layer in _tracking(model):
        vars(layer).pop(KEPT, None)


def statistics_kept(model: nn.Module) -> bool:
    """Return True if the running statistics of some layer are kept."""
    return any(KEPT in vars(layer) for layer in _tracking(model))


def _tracking(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm layers normalize by the statistics of each batch while the context lasts; all else is in evaluation mode.

    Running statistics and the count of batches stay, and statistics that :func:`keep_statistics` keeps are used as they are.
    """
    layers = [] if statistics_kept(model) else _tracking(model)
    with evaluation_mode(model):
        for layer in layers:
            layer.track_running_stats = False
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Nested], forward: Forward) -> None:
    """Replace the running statistics of every BatchNorm layer by their plain average over ``batches``.

    Every batch counts the same. Only the BatchNorm layers are in training mode meanwhile (dropout is off); modes and
    momenta are as before afterwards. A network without running statistics, or with ones that :func:`keep_statistics` keeps, is
    left alone, and ``batches`` is not read.
    Slimmable networks do the same (Yu, Huang 2019, arXiv 1903.05134, section 3.4).

    Args:
        model: The network; its running statistics change in place.
        batches: Inputs of shape ``(N, ...)``.
        forward: Runs the network on them.
    """
    layers = _tracking(model)
    if not layers or statistics_kept(model):
        return
    momenta = [layer.momentum for layer in layers]
    with evaluation_mode(model):
        try:
            reset = False
            for inputs in batches:
                if not reset:
                    for layer in layers:
                        layer.reset_running_stats()
                        layer.momentum = None
                        layer.train()
                    reset = True
                forward(model, inputs)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
