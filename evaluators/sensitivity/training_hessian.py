"""Second derivatives by the weights of a folded network, from Adam's second moments of the training just done."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evaluators.training.moments import TrainingMoments
from spaces.errors import SecateursError
from spaces.quantization.layers import channel_axis, quantized_layers

TOLERANCE = 1e-3
"""Largest accepted difference of a weight from its factor times the trained one, relative to the tensor's largest weight."""


class MissingMomentsError(SecateursError):
    """A training has left no second moments of a network's weights; the message is the reason."""


def training_hessian(moments: TrainingMoments | None, trained: nn.Module, network: nn.Module) -> dict[str, Tensor]:
    """Return ``B v / (1 - beta ** t) / f ** 2`` for every weight tensor of the quantized layers of ``network``.

    ``v`` is Adam's second moment of the training just done (CN112183742B), which holds squares of batch-mean gradients and so
    is multiplied by the training's batch size ``B`` (ours: the source's formula is lost). Folding a BatchNorm multiplies an
    output channel's weights by a factor ``f`` and so divides their gradient by it: exactly, where the statistics of the
    BatchNorm were frozen in training. A channel of factor 0 has weights of 0, and counts as 0.

    Args:
        moments: Moments by named parameter of ``trained``; None where nothing was trained.
        trained: The network whose training left the moments.
        network: The prepared network, of the same weights but for the factors; ``trained`` itself or another.

    Returns:
        Second derivatives by ``LAYER.weight``, in the weights' shapes.

    Raises:
        MissingMomentsError: There are none, or not for every weight, or the weights have changed since.
    """
    if moments is None:
        raise MissingMomentsError("no training in this run precedes it")
    if not moments.values:
        raise MissingMomentsError(f"the training before it used {moments.optimizer}, which keeps no second moments")
    before = dict(trained.named_parameters())
    found = {}
    for layer, module in quantized_layers(network).items():
        name, weight = f"{layer}.weight", module.weight
        moment, own = moments.values.get(name), before.get(name)
        if moment is None or own is None or not moment.shape == own.shape == weight.shape:
            raise MissingMomentsError(f"the training before it has no second moments of {name} as it is now")
        axis = channel_axis(module)
        factor = _factor(own.detach().double(), weight.detach().double(), axis, name)
        squares = torch.where(factor > 0.0, factor.square(), torch.inf)
        found[name] = (moments.batch_size * moment.to(weight.device).double() / squares).to(weight.dtype)
    return found


def _factor(before: Tensor, after: Tensor, axis: int, name: str) -> Tensor:
    """Return the magnitude of the factor between two tensors along ``axis``, of a shape that broadcasts to theirs."""
    others = [dim for dim in range(before.dim()) if dim != axis]
    length, along = before.square().sum(others, keepdim=True), (before * after).sum(others, keepdim=True)
    factor = torch.where(length > 0.0, along / length, 0.0)
    if float((after - factor * before).abs().max()) > TOLERANCE * float(after.abs().max()):
        raise MissingMomentsError(f"{name} was changed since the training before it")
    return factor.abs()


def moments_by_weight(moments: TrainingMoments | None, network: nn.Module) -> Mapping[str, Tensor] | None:
    """Return :func:`training_hessian` of a network that was trained as it is, None where the training has no moments of it."""
    try:
        return training_hessian(moments, network, network)
    except MissingMomentsError:
        return None
