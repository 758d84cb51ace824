"""Compensation: correct the layers that read removed channels by least squares on the kept channels.

Over a few batches, the mean and the covariance of every layer's input channels are measured once. For any keep-mask the best
linear prediction of the removed channels from the kept ones then follows in closed form, and is folded into the weights of
the layer that reads them: ``W_k <- W_k + W_r A`` with ``A = S_rk (S_kk + ridge)^-1``, and the bias takes up the means (ours;
in the line of channel pruning by least squares, He, Zhang, Sun, ICCV 2017, arXiv 1707.06168, and neuron merging, Kim et al.,
NeurIPS 2020, arXiv 2010.13160). No pass over data is needed per candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups, Layer
from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call
from spaces.execution.hooks import first_tensor, temporary_hooks

LARGEST = 2048
RIDGE = 1e-2


@dataclass(frozen=True)
class InputMoments:
    """Mean, of shape ``(in,)``, and covariance, of shape ``(in, in)``, of a layer's input channels; float64."""

    mean: Tensor
    covariance: Tensor


class Compensation:
    """Weights that make up for removed channels, for any keep-mask of one network.

    Args:
        model: The network; left unchanged.
        groups: Its channel groups.
        batches: Input batches, of shape ``(N, ...)``.
        forward: How ``model`` is run on a batch.
    """

    def __init__(self, model: nn.Module, groups: ChannelGroups, batches: Iterable[Nested], forward: Forward = call) -> None:
        uses = Counter(id(one) for module in model.modules() for one in module.parameters(recurse=False))
        self._layers = {
            layer.name: layer
            for layer in groups.layers
            if _compensable(layer, groups) and uses[id(model.get_submodule(layer.name).get_parameter("weight"))] == 1
        }
        self._groups = groups
        self._moments = _measure(model, self._layers, batches, forward)

    def weights(self, model: nn.Module, mask: np.ndarray, dense: bool = False) -> dict[str, Tensor]:
        """Return the weights and biases to use instead of the stored ones, by name.

        Args:
            model: The network that the moments were measured on.
            mask: Whole keep-mask, boolean of shape ``(width,)``.
            dense: Whether in the shapes of ``model``, what is removed left as it was, or sliced to the kept channels.
        """
        extended = self._groups.extended(mask)
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, moments in self._moments.items():
                layer = self._layers[name]
                keep = torch.from_numpy(extended[layer.inputs])
                if bool(keep.all()) or not bool(keep.any()):
                    continue
                outputs = torch.from_numpy(np.flatnonzero(extended[layer.outputs]))
                folded = _folded(model.get_submodule(name), moments, keep, outputs, dense)
                found |= {f"{name}.{key}": value for key, value in folded.items()}
        return found


def _compensable(layer: Layer, groups: ChannelGroups) -> bool:
    mixing = layer.kind.compensable and layer.groups == 1
    once = sum(other.name == layer.name for other in groups.layers) == 1
    return mixing and once and layer.channel_dim != 0 and bool((layer.inputs >= 0).any()) and len(layer.inputs) <= LARGEST


def _folded(module: nn.Module, moments: InputMoments, keep: Tensor, outputs: Tensor, dense: bool) -> dict[str, Tensor]:
    """Return the weight and bias of a layer that reads only ``keep`` and writes only ``outputs``."""
    stay, gone = keep.nonzero().flatten(), (~keep).nonzero().flatten()
    prediction = torch.cholesky_solve(moments.covariance[stay][:, gone], _root(moments.covariance[stay][:, stay]))
    weight: Any = module.weight
    bias: Any = module.bias
    device = weight.device
    rows, stay, gone = outputs.to(device), stay.to(device), gone.to(device)
    read = weight.detach().index_select(0, rows)
    removed = read.index_select(1, gone)
    told = torch.einsum("kr,or...->ok...", prediction.to(removed), removed)
    replaced = {"weight": read.index_select(1, stay).add_(told)}
    if bias is not None:
        # Where there is no bias, a normalization follows and takes its own mean.
        offset = moments.mean[~keep] - moments.mean[keep] @ prediction
        kernel = removed.flatten(2).sum(2) if removed.dim() > 2 else removed
        replaced["bias"] = bias.detach()[rows] + kernel @ offset.to(removed)
    if dense:
        whole = {"weight": weight.detach().clone(), "bias": None if bias is None else bias.detach().clone()}
        whole["weight"][rows[:, None], stay] = replaced["weight"]
        if bias is not None:
            whole["bias"][rows] = replaced["bias"]
        return {name: tensor for name, tensor in whole.items() if tensor is not None}
    return replaced


def _root(covariance: Tensor) -> Tensor:
    """Return the Cholesky factor of a covariance with a ridge, the smallest with which rounding leaves it positive."""
    ridge = RIDGE * float(covariance.diagonal().mean()) + 1e-12
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
        if not int(failed):
            return factor
        ridge *= 10.0


def _measure(
    model: nn.Module, layers: dict[str, Layer], batches: Iterable[Nested], forward: Forward
) -> dict[str, InputMoments]:
    pivots: dict[str, Tensor] = {}
    sums: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}

    def hook(name: str, channel_dim: int) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            inputs = first_tensor(args, keywords)
            if inputs is None or not inputs.numel():
                return
            flat = inputs.detach().movedim(channel_dim, -1).flatten(0, -2)
            if name not in pivots:
                pivots[name] = flat.mean(0)
                sums[name] = [torch.zeros_like(flat[0], dtype=torch.float64), torch.zeros((), device=flat.device)]
            # About a pivot and summed in double, so that a small variance beside a large mean survives.
            flat = flat - pivots[name]
            sums[name][0] = sums[name][0] + flat.double().sum(0)
            sums[name][1] = sums[name][1] + (flat.T @ flat).double()
            counts[name] = counts.get(name, 0) + len(flat)

        return see

    hooks = (
        model.get_submodule(name).register_forward_pre_hook(hook(name, layer.channel_dim), with_kwargs=True)
        for name, layer in layers.items()
    )
    with temporary_hooks(hooks), evaluation_mode(model), torch.no_grad():
        for batch in batches:
            forward(model, batch)
    moments = {}
    for name, (first, second) in sums.items():
        shift = (first / counts[name]).cpu()
        covariance = second.cpu() / counts[name] - torch.outer(shift, shift)
        if bool(torch.isfinite(covariance).all()):
            moments[name] = InputMoments(pivots[name].double().cpu() + shift, covariance)
    return moments
