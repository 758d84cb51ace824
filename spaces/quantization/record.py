"""Rebuild a quantized network from its recorded structure, and pack it into its stored form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spaces.quantization.addition_nodes import add_quantizers
from spaces.quantization.batch_norm_folding import fold_batch_norms
from spaces.quantization.fake_quantize import Quantizer, StoredQuantizer
from spaces.quantization.layers import quantized_layer, quantized_layers
from spaces.quantization.stored_weight import StoredWeight, pack_integers

PACK: dict[str, Any] = {"kind": "pack_weights"}
"""Transformation that packs a quantized network into its stored form."""


def quantize(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Return a copy of ``model`` with fake quantizers that are not calibrated.

    Args:
        model: A float network; left unchanged.
        record: ``folds`` (pairs of a layer and the BatchNorm folded into it), ``layers`` (bits of the weights and of the
            input, or null, by layer), ``additions`` (bits by addition) and ``learned`` (whether training updates the scales).
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
    """Return whether a network has quantized layers that are not in their stored form."""
    return any(layer.stored is None for layer in quantized_layers(model).values())


def pack_weights(model: nn.Module, record: Mapping[str, Any] = PACK) -> nn.Module:
    """Return a copy of a quantized network with packed weights, for storage; it cannot be trained.

    Its outputs equal those of the network in evaluation mode.
    """
    network = copy.deepcopy(model).eval()
    for layer in quantized_layers(network).values():
        quantizer, weight = layer.weight_quantizer, layer.weight
        if layer.stored is not None or quantizer is None or weight is None or quantizer.format.axis is None:
            continue
        qparams = quantizer.qparams
        stored = StoredWeight(weight.shape, quantizer.bits, quantizer.format.axis).to(weight.device)
        with torch.no_grad():
            stored.packed.copy_(pack_integers(quantizer.format.quantize(weight, qparams), quantizer.bits))
            stored.scale.copy_(qparams.scale)
            if layer.bias is not None:
                layer.bias.copy_(layer.quantized_bias())
        layer.weight = None
        layer.weight_quantizer = None
        layer.stored = stored
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, Quantizer):
            network.set_submodule(name, StoredQuantizer.of(module))
    return network
