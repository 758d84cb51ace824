"""The recorded structure of a quantized network, and the network rebuilt from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spaces.quantization.addition_nodes import add_quantizers
from spaces.quantization.batch_norm_folding import fold_batch_norms
from spaces.quantization.fake_quantize import Quantizer, StoredQuantizer, to_integers
from spaces.quantization.layers import quantized_layer, quantized_layers
from spaces.quantization.stored_weight import StoredWeight, pack_integers

PACK: dict[str, Any] = {"kind": "pack_weights"}
"""The transformation of a quantized network into its stored form."""


def quantize(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Return a copy of ``model`` that computes with fake quantizers, not calibrated yet.

    Args:
        model: A float network; left unchanged.
        record: ``folds`` (pairs of a layer and the BatchNorm folded into it), ``layers`` (bits of the weights and of the
            input, or null, by layer), ``additions`` (bits by addition) and ``learned`` (whether training moves the steps).
    """
    network = fold_batch_norms(model, [(layer, norm) for layer, norm in record["folds"]])
    places: dict[int, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for name, (weight_bits, activation_bits) in record["layers"].items():
        layer = network.get_submodule(name)
        made = quantized_layer(layer, int(weight_bits), activation_bits, bool(record["learned"]))
        for place in places[id(layer)]:
            network.set_submodule(place, made)
    return add_quantizers(network, record["additions"], bool(record["learned"])).train(model.training)


def is_quantized(model: nn.Module) -> bool:
    """Whether a network has quantized layers whose weights are not stored as integers yet."""
    return any(layer.stored is None for layer in quantized_layers(model).values())


def pack_weights(model: nn.Module, record: Mapping[str, Any] = PACK) -> nn.Module:
    """Return a copy of a quantized network that stores integers: packed weights, scales, and the input's scale and zero point.

    Equal in output to the network in evaluation mode; it can't be trained.
    """
    network = copy.deepcopy(model).eval()
    for layer in quantized_layers(network).values():
        quantizer, weight = layer.weight_quantizer, layer.weight
        if layer.stored is not None or quantizer is None or weight is None or quantizer.axis is None:
            continue
        step = quantizer.step
        stored = StoredWeight(weight.shape, quantizer.bits, quantizer.axis).to(weight.device)
        with torch.no_grad():
            stored.packed.copy_(pack_integers(to_integers(weight, step, quantizer.bits, True, quantizer.axis), quantizer.bits))
            stored.scale.copy_(step.scale)
            if layer.bias is not None:
                layer.bias.copy_(layer.quantized_bias())
        layer.weight = None
        layer.weight_quantizer = None
        layer.stored = stored
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, Quantizer):
            network.set_submodule(name, StoredQuantizer.of(module))
    return network
