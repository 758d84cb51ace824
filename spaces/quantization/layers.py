"""Layers that compute with quantized weights and inputs: fake-quantized in training, stored as packed integers after.

Each is a subclass of its float layer, so that code that looks for convolutions or linear layers finds it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.errors import UnsupportedModelError
from spaces.layers.layer_kind import kind_of
from spaces.quantization.fake_quantize import Quantizer, StoredQuantizer
from spaces.quantization.format import Format
from spaces.quantization.stored_weight import StoredWeight
from spaces.registry import resolve


class QuantizedLayer(nn.Module):
    """Base class of the quantized layers.

    Attributes:
        weight_quantizer: Quantizer of ``weight``; None in the stored form.
        input_quantizer: Quantizer of the input; None for a float input.
        stored: Packed integers that replace ``weight`` in the stored form; None while the layer is trainable.
    """

    weight: Any
    bias: Any
    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | StoredQuantizer | None
    stored: StoredWeight | None

    def quantized_weight(self) -> Tensor:
        """Return the fake-quantized or dequantized weight, in the shape of the float weight.

        Raises:
            AttributeError: The layer has neither a weight with its quantizer nor stored integers.
        """
        if self.stored is not None:
            stored: Tensor = self.stored()
            return stored
        if self.weight is None or self.weight_quantizer is None:
            raise AttributeError("a quantized layer has a weight with its quantizer, or stored integers")
        quantized: Tensor = self.weight_quantizer(self.weight)
        return quantized

    def quantized_bias(self) -> Tensor | None:
        """Return the bias rounded to multiples of input scale x weight scale, shape ``(channels,)``, as int32 kernels store it.

        ONNX Runtime rounds a float bias in this way, so that the network must too for equal outputs. The gradient passes
        straight through; a value out of the range of 32 bits is not rounded.
        """
        bias: Tensor | None = self.bias
        inputs, weights = self.input_quantizer, self.weight_quantizer
        if bias is None or weights is None or not isinstance(inputs, Quantizer) or not (inputs.enabled and weights.enabled):
            return bias
        unit = (inputs.qparams.scale * weights.qparams.scale).detach()
        unit = unit.repeat(len(bias) // len(unit))
        integers = torch.round(bias.detach() / unit)
        rounded = torch.where(integers.abs() < 2**31, integers * unit, bias.detach()).to(bias.dtype)
        return rounded + (bias - bias.detach())

    def raise_scales(self) -> None:
        """Raise the scales of the weights, in place, so that every bias is at most 2**30 times input scale x weight scale.

        Kernels with int32 biases and sums, ONNX Runtime's among them, then neither cut the bias nor overflow. It concerns
        channels whose weights have all but died beside their biases; rounding them more coarsely changes an output by less than
        2**-22 of its bias for every weight (ours).
        """
        inputs, weights = self.input_quantizer, self.weight_quantizer
        if self.bias is None or weights is None or not isinstance(inputs, Quantizer):
            return
        with torch.no_grad():
            scale = weights.qparams.scale
            most = self.bias.abs().reshape(-1, len(scale)).amax(0)
            floor = (most / (inputs.qparams.scale * 2.0**30)).to(scale.dtype)
            weights.scale.copy_(torch.where(floor > scale, floor, weights.scale))

    def oversized_bias(self) -> int | None:
        """Return the first channel of the stored form whose bias exceeds 32 bits as a multiple of input scale x weight scale.

        None if there is no such channel, and for a layer without a bias, stored weights or a stored input quantizer.
        """
        inputs, stored = self.input_quantizer, self.stored
        if self.bias is None or stored is None or not isinstance(inputs, StoredQuantizer):
            return None
        unit = (inputs.step[0].double() * stored.scale.double()).repeat(len(self.bias) // len(stored.scale))
        too_large = self.bias.detach().double().abs() / unit >= 2**31
        return int(too_large.nonzero()[0]) if bool(too_large.any()) else None

    def quantized_input(self, inputs: Tensor) -> Tensor:
        """Return the fake-quantized input; the input itself without an input quantizer."""
        if self.input_quantizer is None:
            return inputs
        quantized: Tensor = self.input_quantizer(inputs)
        return quantized


class QuantizedConv1d(QuantizedLayer, nn.Conv1d):
    """A quantized :class:`torch.nn.Conv1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve, as the float layer does."""
        outputs: Tensor = self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())
        return outputs


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A quantized :class:`torch.nn.Conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve, as the float layer does."""
        outputs: Tensor = self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())
        return outputs


class QuantizedConv3d(QuantizedLayer, nn.Conv3d):
    """A quantized :class:`torch.nn.Conv3d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve, as the float layer does."""
        outputs: Tensor = self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())
        return outputs


def _transposed(layer: Any, convolve: Any, dimensions: int, inputs: Tensor, output_size: list[int] | None) -> Tensor:
    padding = layer._output_padding(
        inputs, output_size, layer.stride, layer.padding, layer.kernel_size, dimensions, layer.dilation
    )
    outputs: Tensor = convolve(
        layer.quantized_input(inputs),
        layer.quantized_weight(),
        layer.quantized_bias(),
        layer.stride,
        layer.padding,
        padding,
        layer.groups,
        layer.dilation,
    )
    return outputs


class QuantizedConvTranspose1d(QuantizedLayer, nn.ConvTranspose1d):
    """A quantized :class:`torch.nn.ConvTranspose1d`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve, as the float layer does."""
        return _transposed(self, F.conv_transpose1d, 1, input, output_size)


class QuantizedConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):
    """A quantized :class:`torch.nn.ConvTranspose2d`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve, as the float layer does."""
        return _transposed(self, F.conv_transpose2d, 2, input, output_size)


class QuantizedConvTranspose3d(QuantizedLayer, nn.ConvTranspose3d):
    """A quantized :class:`torch.nn.ConvTranspose3d`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve, as the float layer does."""
        return _transposed(self, F.conv_transpose3d, 3, input, output_size)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A quantized :class:`torch.nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, as the float layer does."""
        return F.linear(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())


def has_quantized_form(layer: nn.Module) -> bool:
    """Return True if the layer's kind names a quantized form of exactly its type."""
    kind = kind_of(layer)
    return kind is not None and type(layer) in kind.quantized


def channel_axis(layer: nn.Module) -> int:
    """Return the dimension of the output channels in the weight of ``layer``."""
    kind = kind_of(layer)
    return 0 if kind is None else kind.output_dim


def quantized_layer(layer: nn.Module, weight_bits: int, activation_bits: int | None, learned: bool) -> QuantizedLayer:
    """Return the quantized form of a float layer; it shares the layer's parameters, and its quantizers are not calibrated.

    Args:
        layer: A layer with a quantized form.
        weight_bits: Bits of the weights.
        activation_bits: Bits of the input, None for a float input.
        learned: Whether training updates the scales.
    """
    kind = kind_of(layer)
    if kind is None or type(layer) not in kind.quantized:
        raise UnsupportedModelError(
            f"a {type(layer).__name__} has no quantized form: expected a layer whose kind names one (LayerKind.quantized)"
        )
    form: type[QuantizedLayer] = resolve(kind.quantized[type(layer)])
    made = form.__new__(form)
    made.__dict__.update(layer.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        made.__dict__[name] = dict(layer.__dict__[name])
    axis, weight = channel_axis(layer), layer.get_parameter("weight")
    made.weight_quantizer = Quantizer(Format(weight_bits, signed=True, axis=axis), weight.shape[axis], learned)
    made.input_quantizer = (
        None if activation_bits is None else Quantizer(Format(activation_bits, signed=False), learned=learned)
    )
    made.stored = None
    return made.to(weight.device)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the quantized layers of a network by module name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}
