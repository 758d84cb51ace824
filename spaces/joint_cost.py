"""Layer sizes of a network after channels and modules are removed, for the costs of channels, depth and bits together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups
from spaces.quantization.cost import LayerSizes, counted_parameters, stored_bytes
from spaces.quantization.fake_quantize import fake_quantizers
from spaces.quantization.layers import channel_axis, quantized_layers
from spaces.quantization.quantizable import Quantizable

_OWN = ("bias", "weight_quantizer.scale", "weight_quantizer.zero_point")
"""Tensors of a quantized layer that have one element per output channel."""


@dataclasses.dataclass(frozen=True)
class Left:
    """The part of a network that is left once modules have gone.

    Attributes:
        layers: Whether a layer with MACs is left, boolean of shape ``(layers,)``.
        tensors: Whether a tensor of the state is left, boolean of shape ``(tensors,)``.
        fixed_macs: MACs that no mask changes, and that go with the modules.
        groups: Whether channels of a group are left, by group.
        gone: Tells whether a module, or a tensor of the state, has gone.
    """

    layers: np.ndarray
    tensors: np.ndarray
    fixed_macs: float
    groups: Mapping[str, bool]
    gone: Callable[[str], bool]


class JointCost:
    """Layer sizes of a network under any keep-mask and without some modules, without building the network.

    Args:
        found: Layers and additions of the whole network that can be quantized.
        network: The whole network, quantized with any bits where it is.
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
        self._groups = groups
        self._names = [*_names_of(network, counts.tensors)]
        # What the tensors by themselves do not tell, such as that a shared one is stored twice, does not change.
        self._other = whole.other_bytes - float(elements @ self._bytes)
        self._parameters = whole.parameters - float(elements @ self._trained)

    def left(self, gone: Callable[[str], bool], products: Mapping[str, Sequence[int]]) -> Left:
        """Return what is left without some modules.

        Args:
            gone: Tells whether a module, or a tensor of the state, has gone.
            products: By module that stays, the places of those of its own products that have gone all the same.
        """
        layers, at = [], dict[str, int]()
        for layer in self._groups.layers:
            if layer.macs > 0:
                code = layer.name if layer.runner is None else layer.runner
                at[code] = at.get(code, -1) + 1
                layers.append(not gone(layer.name) and at[code] not in products.get(code, ()))
        tied = np.zeros(self._groups.width, dtype=bool)
        for name, dims in self._groups.ties.items():
            if not gone(name):
                for places in dims.values():
                    units = self._groups.units_of(places)
                    tied[units[units >= 0]] = True
        return Left(
            np.array(layers, dtype=bool),
            np.array([not all(map(gone, names)) for names in self._names], dtype=bool),
            float(sum(macs for name, macs in self._groups.fixed_macs.items() if gone(name))),
            {name: bool(part.any()) for name, part in self._groups.parts(tied).items()},
            gone,
        )

    def layer_sizes(self, mask: np.ndarray, left: Left | None = None) -> LayerSizes:
        """Return the layer sizes of a network.

        Args:
            mask: Keep-mask of all groups, boolean of shape ``(width,)``.
            left: What is left of it; None for all.
        """
        macs, elements = self._counts.counts(mask)
        if left is not None:
            macs, elements = macs * left.layers, elements * left.tensors
        lost = {name: before - float(macs[self._calls[name]].sum()) for name, before in self._traced.items()}
        own = [name for name in self._weights if left is None or not left.gone(name)]
        return LayerSizes(
            {name: int(elements[self._weights[name]]) for name in own},
            {name: self._whole.macs[name] - lost.get(name, 0.0) for name in own},
            self._whole.float_macs - sum(lost[name] for name in self._in_float) - (left.fixed_macs if left else 0.0),
            self._parameters + float(elements @ self._trained),
            self._other + float(elements @ self._bytes),
        )


def float_sizes(network: nn.Module, macs: float) -> LayerSizes:
    """Return the layer sizes of a network of which nothing is quantized.

    Args:
        network: The network.
        macs: Its multiply-accumulates for one sample.
    """
    return LayerSizes({}, {}, macs, float(counted_parameters(network)), stored_bytes(network))


def _names_of(network: nn.Module, tensors: Sequence[str]) -> list[list[str]]:
    """Return all names of every one of some tensors of the state, several where it is shared."""
    state = network.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return [names[id(state[name])] for name in tensors]


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
