"""Channel groups of a sliced network, as a subset of those of the network it was sliced from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from spaces.channels.groups import ChannelGroups, paired
from spaces.channels.surgery import Cut


def kept_channels(groups: ChannelGroups, cuts: Iterable[Cut]) -> np.ndarray:
    """Return the keep-mask that is left after ``cuts``, one after the other, boolean of shape ``(groups.width,)``."""
    kept: dict[tuple[str, int], Any] = {}
    for cut in cuts:
        for tensor, dims in cut.kept.items():
            for dim, indices in dims.items():
                before = kept.get((tensor, dim))
                kept[tensor, dim] = np.asarray(indices) if before is None else before[indices]
    mask = np.zeros(groups.width, dtype=bool)
    for tensor, along in groups.ties.items():
        for dim, places in along.items():
            left = places[kept[tensor, dim]] if (tensor, dim) in kept else places
            units = groups.units_of(left)
            mask[units[units >= 0]] = True
    return mask


def subset(groups: ChannelGroups, mask: np.ndarray) -> ChannelGroups:
    """Return the groups of the network that ``mask``, boolean of shape ``(groups.width,)``, slices out of theirs."""
    pairs, position = paired(groups, np.where(mask, np.cumsum(mask) - 1, -1), int(mask.sum()))
    stays = groups.extended(mask)
    kept = []
    for group in groups.groups:
        size = int(mask[group.offset : group.offset + group.size].sum())
        kept.append(replace(group, size=size, offset=int(mask[: group.offset].sum())))
    ties = {
        tensor: {dim: position[places[stays[places]]] for dim, places in dims.items()} for tensor, dims in groups.ties.items()
    }
    layers = []
    for layer in groups.layers:
        inputs, outputs, passing = (position[places[stays[places]]] for places in (layer.inputs, layer.outputs, layer.passing))
        count = layer.groups if layer.groups == 1 else layer.groups * len(inputs) // max(1, len(layer.inputs))
        layers.append(replace(layer, inputs=inputs, outputs=outputs, groups=count, passing=passing))
    sizes = {
        module: {name: position[places[stays[places]]] for name, places in named.items()}
        for module, named in groups.sizes.items()
    }
    live = tuple(
        replace(one, places=position[one.places[stays[one.places]]], beside=position[one.beside[stays[one.beside]]])
        for one in groups.activations
    )
    masked = tuple(call.mapped(lambda places: position[places[stays[places]]]) for call in groups.masked)
    scales = []
    for one in groups.scales:
        own = groups.ties.get(one.tensor, {}).get(one.dim)
        left = np.ones(int(one.rows.max(initial=-1)) + 1, dtype=bool) if own is None else stays[own]
        rows = np.cumsum(left)[one.rows[left[one.rows]]] - 1
        scales.append(replace(one, rows=rows, places=position[one.places[stays[one.places]]]))
    return ChannelGroups(
        tuple(kept),
        groups.frozen,
        ties,
        tuple(layers),
        groups.fixed_macs,
        sizes,
        live,
        masked,
        pairs=pairs,
        scales=tuple(scales),
    )
