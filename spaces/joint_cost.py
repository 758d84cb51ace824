"""Layer sizes of a network after channels are removed, for the costs of channels and bits together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from torch import nn

from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups
from spaces.quantization.cost import LayerSizes
from spaces.quantization.fake_quantize import fake_quantizers
from spaces.quantization.layers import channel_axis, quantized_layers
from spaces.quantization.quantizable import Quantizable

_OWN = ("bias", "weight_quantizer.scale", "weight_quantizer.zero_point")
"""Tensors of a quantized layer that have one element per output channel."""


class JointCost:
    """Layer sizes of a quantized network under any keep-mask, without building the network.

    Args:
        found: Layers and additions of the whole network that can be quantized.
        network: The whole network, quantized with any bits.
        groups: Channel groups of the network, found before it was quantized.
        whole: Layer sizes of the whole network.
    """

    def __init__(self, found: Quantizable, network: nn.Module, groups: ChannelGroups, whole: LayerSizes) -> None:
        """Count the layers and tensors of the quantized ``network`` by the channels of ``groups``."""
        self._whole = whole
        self._counts = counts = ChannelCost(network, dataclasses.replace(groups, ties=_ties(network, groups)))
        dense, elements = counts.counts(np.ones(groups.width, dtype=bool))
        self._calls: dict[str, list[int]] = {}
        for place, name in enumerate(counts.layers):
            self._calls.setdefault(name, []).append(place)
        self._traced = {name: float(dense[places].sum()) for name, places in self._calls.items()}
        # By what is quantized, since PyTorch's attention is a single module before a cut, and several behind it.
        self._in_float = [name for name in self._calls if name not in whole.macs]
        places = {name: place for place, name in enumerate(counts.tensors)}
        self._weights = {site.name: places[f"{site.name}.weight"] for site in found.layers}
        self._bytes, self._trained = _weights_of(network, counts.tensors, set(self._weights.values()))
        # What the tensors by themselves do not tell, such as that a shared one is stored twice, does not change.
        self._other = whole.other_bytes - float(elements @ self._bytes)
        self._parameters = whole.parameters - float(elements @ self._trained)

    def layer_sizes(self, mask: np.ndarray) -> LayerSizes:
        """Return the layer sizes under a keep-mask of all groups, boolean of shape ``(width,)``."""
        macs, elements = self._counts.counts(mask)
        gone = {name: before - float(macs[self._calls[name]].sum()) for name, before in self._traced.items()}
        return LayerSizes(
            {name: int(elements[place]) for name, place in self._weights.items()},
            {name: before - gone.get(name, 0.0) for name, before in self._whole.macs.items()},
            self._whole.float_macs - sum(gone[name] for name in self._in_float),
            self._parameters + float(elements @ self._trained),
            self._other + float(elements @ self._bytes),
        )


def _ties(network: nn.Module, groups: ChannelGroups) -> dict[str, Mapping[int, np.ndarray]]:
    """Return the ties of the quantized network's tensors: those of before, and of what came with folding and quantizing."""
    ties = dict(groups.ties)
    for name, layer in quantized_layers(network).items():
        places = ties.get(f"{name}.weight", {}).get(channel_axis(layer))
        if places is not None:
            ties |= {f"{name}.{own}": {0: places} for own in _OWN}
    return ties


def _weights_of(network: nn.Module, tensors: tuple[str, ...], packed: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the stored bytes of an element of each tensor (quantized weights: 0), and whether it is a parameter."""
    quantizers = fake_quantizers(network)
    state = network.state_dict(keep_vars=True)
    stored, trained = np.zeros(len(tensors)), np.zeros(len(tensors))
    for place, name in enumerate(tensors):
        owner, _, own = name.rpartition(".")
        quantizer = quantizers.get(owner)
        trained[place] = quantizer is None and isinstance(state[name], nn.Parameter)
        if place not in packed and (quantizer is None or own == "scale"):
            # A stored activation has its zero point beside its scale.
            copies = 1 if quantizer is None or quantizer.format.signed else 2
            stored[place] = copies * state[name].element_size()
    return stored, trained
