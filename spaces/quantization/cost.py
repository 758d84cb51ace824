"""Count bytes and bit operations of a quantized network, and predict both for any choice of bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from spaces.layers.macs import FLOAT_BITS
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.layers import QuantizedLayer, quantized_layers
from spaces.quantization.quantizable import Quantizable
from spaces.quantization.stored_weight import packed_bytes


def operation_bits(module: nn.Module) -> int:
    """Return bits of the weights x bits of the input: the bit operations of one multiply-accumulate of ``module``."""
    if not isinstance(module, QuantizedLayer):
        return FLOAT_BITS * FLOAT_BITS
    return weight_bits(module) * (module.input_quantizer.bits if module.input_quantizer is not None else FLOAT_BITS)


def weight_bits(layer: QuantizedLayer) -> int:
    """Return the bits of a quantized layer's weights."""
    if layer.stored is not None:
        return layer.stored.bits
    return layer.weight_quantizer.bits if layer.weight_quantizer is not None else FLOAT_BITS


def average_weight_bits(model: nn.Module) -> float:
    """Return the mean of the bits of all weights in quantized layers; 32 for a network without one."""
    counted = [(_weights(layer), weight_bits(layer)) for layer in quantized_layers(model).values()]
    return _mean_bits(counted)


def _weights(layer: QuantizedLayer) -> int:
    if layer.stored is not None:
        return layer.stored.count
    return 0 if layer.weight is None else layer.weight.numel()


def _mean_bits(counted: Sequence[tuple[int, int]]) -> float:
    """Return the mean of bits, each counted so many times; 32 of none."""
    total = sum(count for count, _ in counted)
    return sum(count * bits for count, bits in counted) / total if total else float(FLOAT_BITS)


def counted_parameters(model: nn.Module) -> int:
    """Return the number of weights and biases, float or integer, without scales and zero points."""
    scales = {id(module.scale) for module in model.modules() if isinstance(module, Quantizer)}
    own = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in scales)
    return own + sum(layer.stored.count for layer in quantized_layers(model).values() if layer.stored is not None)


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of a network as stored: quantized weights packed, other tensors in their dtype."""
    total = sum(_bytes(tensor) for tensor in model.state_dict().values())
    for layer in quantized_layers(model).values():
        if layer.weight is not None and layer.weight_quantizer is not None:
            total += packed_bytes(layer.weight.numel(), layer.weight_quantizer.bits) - _bytes(layer.weight)
    for module in model.modules():
        if isinstance(module, Quantizer):
            total -= _bytes(module.width) + _bytes(module.zero_point)
            # A stored activation has its zero point beside its scale.
            total += 0 if module.format.signed else _bytes(module.scale)
    return total


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of the parts of a network that do not depend on the choice of bits.

    Attributes:
        weights: Elements of the weight, by quantized layer.
        macs: Multiply-accumulates for one sample, by quantized layer.
        float_macs: Multiply-accumulates of the float layers for one sample.
        parameters: Number of weights and biases.
        other_bytes: Stored bytes beside the quantized weights.
    """

    weights: Mapping[str, int]
    macs: Mapping[str, float]
    float_macs: float
    parameters: float
    other_bytes: float


class BitCost:
    """Costs of one network for any choice of bits.

    Args:
        found: Quantizable and frozen parts of the network.
        network: The quantized network, with any bits.

    Attributes:
        whole: Sizes of the network with all channels.
    """

    def __init__(self, found: Quantizable, network: nn.Module) -> None:
        """Measure the sizes of ``network``."""
        layers = quantized_layers(network)
        packed = sum(packed_bytes(site.weights, weight_bits(layers[site.name])) for site in found.layers)
        self.whole = LayerSizes(
            {site.name: site.weights for site in found.layers},
            {site.name: site.macs for site in found.layers},
            sum(entry.macs for entry in found.frozen),
            float(counted_parameters(network)),
            stored_bytes(network) - packed,
        )

    def of(self, bits: Mapping[str, tuple[int, int | None]], sizes: LayerSizes | None = None) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes``, ``bit_operations`` and ``weight_bits`` (per weight, on average).

        Args:
            bits: Bits of the weights and of the input (None: float), by layer.
            sizes: Sizes after channels were removed; :attr:`whole` by default.
        """
        return costs_of(bits, sizes or self.whole)


def costs_of(bits: Mapping[str, tuple[int, int | None]], sizes: LayerSizes) -> dict[str, float]:
    """Return the costs of :meth:`BitCost.of` for a network with some layer sizes."""
    operations = sizes.float_macs * FLOAT_BITS * FLOAT_BITS
    size = sizes.other_bytes
    for name, macs in sizes.macs.items():
        weights, inputs = bits[name]
        operations += macs * weights * (FLOAT_BITS if inputs is None else inputs)
        size += packed_bytes(sizes.weights[name], weights)
    return {
        "macs": float(sizes.float_macs + sum(sizes.macs.values())),
        "parameters": sizes.parameters,
        "size_bytes": float(size),
        "bit_operations": float(operations),
        "weight_bits": _mean_bits([(count, bits[name][0]) for name, count in sizes.weights.items()]),
    }
