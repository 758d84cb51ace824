"""Importance: one score per coupled channel, the larger the more it matters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from spaces.errors import SecateursError
from spaces.graph.channel_groups import ChannelGroups
from spaces.registry import suggestion

CRITERIA = ("bn_scale", "l1", "l2")


def score(model: nn.Module, groups: ChannelGroups, criterion: str = "bn_scale") -> dict[str, np.ndarray]:
    """Score every coupled channel of every open group.

    Args:
        model: The network that ``groups`` were found in.
        groups: Its channel groups.
        criterion: ``bn_scale``: mean absolute scaling factor of the normalizations (network slimming, Liu et al., ICCV 2017);
            where a channel has none, its ``l2``. ``l1``, ``l2``: norm of all weights that produce the channel, averaged over
            the producing layers (Li et al., ICLR 2017).

    Returns:
        By group name, float64 scores of shape ``(group.size,)``.

    Raises:
        SecateursError: The criterion is unknown.
    """
    if criterion not in CRITERIA:
        raise SecateursError(f"unknown importance criterion {criterion!r}; {suggestion(criterion, CRITERIA)}")
    norm = "l2" if criterion == "bn_scale" else criterion
    total = _averaged(groups, _producing_norms(model, groups, norm))
    if criterion == "bn_scale":
        scales = _averaged(groups, _scaling_factors(model, groups))
        for group in groups.groups:
            block = slice(group.offset, group.offset + group.size)
            if np.isfinite(scales[block]).all():
                total[block] = scales[block]
    return {group.name: total[group.offset : group.offset + group.size].copy() for group in groups.groups}


def _averaged(groups: ChannelGroups, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Average scores over the positions of each coupled channel; NaN where nothing scores it."""
    sums, counts = np.zeros(groups.width), np.zeros(groups.width)
    for places, scores in parts:
        opened = places >= 0
        np.add.at(sums, places[opened], scores[opened])
        np.add.at(counts, places[opened], 1.0)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())


def _scaling_factors(model: nn.Module, groups: ChannelGroups) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for layer in groups.layers:
        weight = getattr(model.get_submodule(layer.name), "weight", None)
        if "norm" in layer.kind and weight is not None:
            yield layer.outputs, np.abs(_array(weight))


def _producing_norms(model: nn.Module, groups: ChannelGroups, norm: str) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    seen: set[str] = set()
    for layer in groups.layers:
        if "norm" in layer.kind or layer.name in seen:
            continue
        seen.add(layer.name)
        weight = _array(model.get_submodule(layer.name).weight)  # type: ignore[arg-type]
        if layer.kind == "conv_transpose":
            by_group = weight.reshape(layer.groups, -1, *weight.shape[1:])
            weight = by_group.swapaxes(1, 2)
        flat = np.abs(weight.reshape(len(layer.outputs), -1))
        yield layer.outputs, flat.sum(1) if norm == "l1" else np.sqrt((flat**2).sum(1))
