"""What bits cost: bytes and bit operations, of a network and of every choice of bits without building one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from spaces.graph.fake_quantize import Quantizer
from spaces.graph.quantizable import Quantizable
from spaces.graph.quantized_layers import QuantizedLayer, quantized_layers
from spaces.graph.stored_weight import packed_bytes

FLOAT_BITS = 32


def operation_bits(module: nn.Module) -> int:
    """Return the bits of a module's weights times those of its input."""
    if not isinstance(module, QuantizedLayer):
        return FLOAT_BITS * FLOAT_BITS
    return weight_bits(module) * (module.input_quantizer.bits if module.input_quantizer is not None else FLOAT_BITS)


def weight_bits(layer: QuantizedLayer) -> int:
    """Return the bits of a quantized layer's weights."""
    if layer.stored is not None:
        return layer.stored.bits
    return layer.weight_quantizer.bits if layer.weight_quantizer is not None else FLOAT_BITS


def counted_parameters(model: nn.Module) -> int:
    """Return the number of weights and biases, integers or not; steps are no parameters."""
    steps = {id(module.scale) for module in model.modules() if isinstance(module, Quantizer)}
    own = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in steps)
    return own + sum(layer.stored.count for layer in quantized_layers(model).values() if layer.stored is not None)


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of all tensors that are stored of a network, with the weights of quantized layers packed."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    for layer in quantized_layers(model).values():
        if layer.weight is not None and layer.weight_quantizer is not None:
            quantizer, weight = layer.weight_quantizer, layer.weight
            total += packed_bytes(weight.numel(), quantizer.bits) - weight.numel() * weight.element_size()
            total -= quantizer.zero_point.numel() * quantizer.zero_point.element_size()
    return total


class BitCost:
    """Costs of any choice of bits of one network.

    Args:
        found: What can be quantized in it.
        network: It, quantized, with any bits.
        latency: Milliseconds of a layer by ``"WEIGHT_BITSxINPUT_BITS"``, by layer; may be empty.
    """

    def __init__(self, found: Quantizable, network: nn.Module, latency: Mapping[str, Mapping[str, float]]) -> None:
        self._sites = found.layers
        self._latency = latency
        frozen = sum(entry.macs for entry in found.frozen)
        self._macs = frozen + sum(site.macs for site in found.layers)
        self._float_operations = frozen * FLOAT_BITS * FLOAT_BITS
        self._parameters = float(counted_parameters(network))
        packed = {name: packed_bytes(layer.weight.numel(), weight_bits(layer)) for name, layer in _with_weight(network)}
        self._other_bytes = stored_bytes(network) - sum(packed.values())

    def of(self, bits: Mapping[str, tuple[int, int | None]]) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes``, ``bit_operations`` and, with a table for it, ``latency_ms``.

        Args:
            bits: Bits of the weights and of the input (None: float), by layer.
        """
        operations = self._float_operations
        size = self._other_bytes
        latency = 0.0
        for site in self._sites:
            weights, inputs = bits[site.name]
            operations += site.macs * weights * (FLOAT_BITS if inputs is None else inputs)
            size += packed_bytes(site.weights, weights)
            if self._latency:
                latency += self._latency[site.name][latency_key(weights, inputs)]
        costs = {
            "macs": float(self._macs),
            "parameters": self._parameters,
            "size_bytes": float(size),
            "bit_operations": float(operations),
        }
        return {**costs, "latency_ms": latency} if self._latency else costs


def latency_key(weights: int, inputs: int | None) -> str:
    """Return the entry of a latency table for a layer with these bits, such as ``4x8``."""
    return f"{weights}x{FLOAT_BITS if inputs is None else inputs}"


def _with_weight(network: nn.Module) -> list[tuple[str, QuantizedLayer]]:
    return [(name, layer) for name, layer in quantized_layers(network).items() if layer.weight is not None]
