"""Rebuild a quantized network from its recorded structure, and pack it into its stored form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spaces.cloning.clone import clone
from spaces.quantization.addition_nodes import add_quantizers
from spaces.quantization.batch_norm_folding import fold_batch_norms
from spaces.quantization.fake_quantize import Quantizer, StoredQuantizer
from spaces.quantization.layers import has_quantized_form, quantized_layer, quantized_layers
from spaces.quantization.stored_weight import StoredWeight, pack_integers
from spaces.records import RecordError, entries, flag, integer, items, one_of

MAX_BITS = 32
PACK: dict[str, Any] = {"kind": "pack_weights"}
"""Transformation that packs a quantized network into its stored form."""


def quantize(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Return a copy of ``model`` with fake quantizers that are not calibrated.

    Args:
        model: A float network; left unchanged.
        record: ``folds`` (pairs of a layer and the BatchNorm folded into it), ``layers`` (bits of the weights and of the
            input, or null, by layer), ``additions`` (bits by addition) and ``learned`` (whether training updates the scales).
    """
    where = "quantize"
    network = fold_batch_norms(model, _folds(model, record))
    learned = flag(record.get("learned"), f"{where}: learned")
    places: dict[int, list[str]] = {}
    modules = dict(network.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        places.setdefault(id(module), []).append(name)
    for name, bits in entries(record, "layers", where).items():
        layer, place = modules[one_of(name, modules, f"{where}: layers")], f"{where}: layers: {name}"
        weight_bits, activation_bits = _pair({name: bits}, name, place)
        integer(weight_bits, 1, MAX_BITS, place)
        if activation_bits is not None:
            integer(activation_bits, 1, MAX_BITS, place)
        made = quantized_layer(layer, weight_bits, activation_bits, learned)
        for other in places[id(layer)]:
            network.set_submodule(other, made)
    additions = entries(record, "additions", where)
    for name, bits in additions.items():
        integer(bits, 1, MAX_BITS, f"{where}: additions: {name}")
    return add_quantizers(network, additions, learned).train(model.training)


def _folds(model: nn.Module, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the recorded pairs of a layer and its BatchNorm, if the network has them."""
    modules, where = dict(model.named_modules(remove_duplicate=False)), "quantize: folds"
    found = []
    for pair in items(record, "folds", "quantize"):
        layer, norm = (one_of(name, modules, where) for name in _pair({"pair": pair}, "pair", where))
        if not has_quantized_form(modules[layer]) or not isinstance(modules[norm], _BatchNorm | nn.Identity):
            raise RecordError(
                f"{where}: expected a layer and its BatchNorm, the network has other modules at {layer} and {norm}"
            )
        found.append((layer, norm))
    return found


def _pair(record: Mapping[str, Any], key: str, where: str) -> tuple[Any, Any]:
    pair = items(record, key, where)
    if len(pair) != 2:
        raise RecordError(f"{where}: expected two values, got {len(pair)}")
    return pair[0], pair[1]


def is_quantized(model: nn.Module) -> bool:
    """Return whether a network has quantized layers that are not in their stored form."""
    return any(layer.stored is None for layer in quantized_layers(model).values())


def pack_weights(model: nn.Module, record: Mapping[str, Any] = PACK) -> nn.Module:
    """Return a copy of a quantized network with packed weights, for storage; it cannot be trained.

    Its outputs equal those of the network in evaluation mode.
    """
    network = clone(model).eval()
    for layer in quantized_layers(network).values():
        quantizer, weight = layer.weight_quantizer, layer.weight
        if layer.stored is not None or quantizer is None or weight is None or quantizer.format.axis is None:
            continue
        layer.raise_scales()
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
