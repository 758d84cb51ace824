"""Differences: the layers that read other values in the sliced network than in the masked one, found in one pass of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.channels.groups import ChannelGroups, Layer
from spaces.channels.masking import masked_copy
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.execution.batch import Nested, map_tensors
from spaces.execution.comparison import TOLERANCE, eager, probe
from spaces.execution.forward import Forward, in_double
from spaces.execution.hooks import first_tensor, temporary_hooks, with_first
from spaces.execution.watched_run import WatchedRun


def differing_groups(
    exact: nn.Module, groups: ChannelGroups, mask: np.ndarray, inputs: Nested, forward: Forward
) -> dict[str, str]:
    """Return the open groups whose channels reach a layer with other values once some are removed, each with the reason.

    A layer that reads other values than the same layer of the masked network is given those of the masked one, so that every
    difference is told at the first layer behind it.

    Args:
        exact: The network in float64, in evaluation mode; left unchanged.
        groups: Its channel groups.
        mask: Whole keep-mask, boolean of shape ``(groups.width,)``.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        forward: How the network is run on it.
    """
    layers = {layer.name: layer for layer in groups.layers if layer.channel_dim and len(layer.passing) == 1}
    stays = groups.extended(mask)
    kept = {name: torch.from_numpy(np.flatnonzero(stays[layer.inputs])) for name, layer in layers.items()}
    read: dict[str, list[Tensor]] = {name: [] for name in layers}
    told: dict[str, str] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            values = first_tensor(args, keywords)
            if values is not None:
                dim, index = layers[name].channel_dim, kept[name].to(values.device)
                read[name].append(values.index_select(dim, index) if len(index) < values.shape[dim] else values.clone())

        return hook

    def compare(name: str) -> Callable[..., Any]:
        expected = iter(read[name])

        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            def replaced(values: Tensor) -> Tensor:
                right = next(expected, None)
                if right is None:
                    return values
                difference = _difference(values, right)
                if difference:
                    reason = (
                        f"{name}: what it reads {difference} once channels are removed: code before it depends on their number"
                    )
                    told.update({group: reason for group in _read_by(groups, layers[name]) if group not in told})
                return right

            return with_first(args, keywords, replaced)

        return hook

    def hooks(network: nn.Module, make: Callable[[str], Callable[..., Any]]) -> Iterator[RemovableHandle]:
        for name in layers:
            if len(layers[name].inputs):
                yield network.get_submodule(name).register_forward_pre_hook(make(name), with_kwargs=True)

    masked, sliced = masked_copy(exact, groups, mask), apply_cut(exact, plan_cut(groups, mask))
    examples = probe(inputs, torch.float64)
    # Whatever is found before a failure counts.
    with torch.no_grad(), eager(), in_double(), suppress(Exception):
        with temporary_hooks(hooks(masked, keep)), WatchedRun():
            forward(masked, map_tensors(Tensor.clone, examples))
        with temporary_hooks(hooks(sliced, compare)), WatchedRun():
            forward(sliced, map_tensors(Tensor.clone, examples))
    return told


def _difference(values: Tensor, right: Tensor) -> str:
    if values.shape != right.shape:
        return f"has shape {tuple(values.shape)} in place of {tuple(right.shape)}"
    if not values.numel():
        return ""
    gap, scale = float((values - right).abs().max()), float(right.abs().max())
    return "" if gap <= TOLERANCE * max(scale, 1e-300) else f"differs by {gap:.3g} of {scale:.3g}"


def _read_by(groups: ChannelGroups, layer: Layer) -> list[str]:
    return [group.name for group in groups.groups if groups.touched(group, layer.inputs)]
