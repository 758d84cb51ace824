"""Compensation: the layers that read a removed channel read instead what the kept channels tell about it.

Over a few batches, the mean and the covariance of every layer's input channels are measured once. For any keep-mask the best
linear prediction of the removed channels from the kept ones then follows in closed form, and is folded into the weights of
the layer that reads them: ``W_k <- W_k + W_r A`` with ``A = S_rk (S_kk + ridge)^-1``, and the bias takes up the means (ours;
in the line of channel pruning by least squares, He, Zhang, Sun, ICCV 2017, arXiv 1707.06168, and neuron merging, Kim et al.,
NeurIPS 2020, arXiv 2010.13160). No pass over data is needed per candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.graph.channel_groups import ChannelGroups, Forward, Layer, call

LARGEST = 2048
RIDGE = 1e-2


@dataclass(frozen=True)
class Moments:
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

    def __init__(self, model: nn.Module, groups: ChannelGroups, batches: Iterable[Tensor], forward: Forward = call) -> None:
        self._layers = {layer.name: layer for layer in groups.layers if _compensable(layer, groups)}
        self._moments = _measure(model, self._layers, batches, forward)

    def weights(self, model: nn.Module, mask: np.ndarray) -> dict[str, Tensor]:
        """Return the weights and biases to use instead of the stored ones, by name and in their dense shapes.

        Args:
            model: The network that the moments were measured on.
            mask: Whole keep-mask, boolean of shape ``(width,)``.
        """
        extended = np.append(mask, True)
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, moments in self._moments.items():
                layer = self._layers[name]
                keep = torch.from_numpy(extended[layer.inputs])
                if bool(keep.all()) or not bool(keep.any()):
                    continue
                found |= {f"{name}.{key}": value for key, value in _folded(model.get_submodule(name), moments, keep).items()}
        return found


def _compensable(layer: Layer, groups: ChannelGroups) -> bool:
    mixing = layer.kind in ("conv", "linear") and layer.groups == 1
    once = sum(other.name == layer.name for other in groups.layers) == 1
    return mixing and once and bool((layer.inputs >= 0).any()) and len(layer.inputs) <= LARGEST


def _folded(module: nn.Module, moments: Moments, keep: Tensor) -> dict[str, Tensor]:
    stay, gone = keep.nonzero().flatten(), (~keep).nonzero().flatten()
    inner = moments.covariance[stay][:, stay]
    ridge = RIDGE * float(inner.diagonal().mean()) + 1e-12
    inner = inner + ridge * torch.eye(len(stay), dtype=inner.dtype)
    prediction = torch.linalg.solve(inner, moments.covariance[stay][:, gone])
    weight: Any = module.weight
    bias: Any = module.bias
    removed = weight.detach()[:, gone].double().cpu()
    folded = weight.detach().clone()
    folded[:, stay] += torch.einsum("or...,kr->ok...", removed, prediction).to(folded)
    replaced = {"weight": folded}
    if bias is not None:
        # Where there is no bias, a normalization follows and takes its own mean.
        offset = moments.mean[gone] - moments.mean[stay] @ prediction
        kernel = removed.flatten(2).sum(2) if removed.dim() > 2 else removed
        replaced["bias"] = bias.detach() + (kernel @ offset).to(bias)
    return replaced


def _measure(model: nn.Module, layers: dict[str, Layer], batches: Iterable[Tensor], forward: Forward) -> dict[str, Moments]:
    sums: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}

    def hook(name: str, channel_dim: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            flat = args[0].detach().movedim(channel_dim, -1).flatten(0, -2)
            # Batches are summed in double, so that a small variance beside a large mean survives.
            first, second = flat.sum(0).double().cpu(), (flat.T @ flat).double().cpu()
            if name in sums:
                sums[name][0] += first
                sums[name][1] += second
            else:
                sums[name] = [first, second]
            counts[name] = counts.get(name, 0) + len(flat)

        return see

    modes = {module: module.training for module in model.modules()}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name, layer.channel_dim)) for name, layer in layers.items()
    ]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    moments = {}
    for name, (first, second) in sums.items():
        mean = first / counts[name]
        moments[name] = Moments(mean, second / counts[name] - torch.outer(mean, mean))
    return moments
