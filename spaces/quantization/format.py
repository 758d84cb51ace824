"""Integer formats, and uniform affine quantization to one.

``q = clamp(round(x / scale) + zero_point, low, high)`` and back ``(q - zero_point) * scale``, halves rounded to even, as
PyTorch's ``fake_quantize`` operators and ONNX's QuantizeLinear do. One bit, of weights only, is the sign: -1 or 1 (0 has sign
1), times the scale, which is calibrated to the mean magnitude (Rastegari et al., ECCV 2016, arXiv 1603.05279, equation 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST, MOST = 1, 8
"""Bits that an integer may have."""

FEWEST_UNSIGNED = 2
"""Fewest bits of an activation."""


@dataclass(frozen=True)
class QParams:
    """Scale and zero point that map float values to integers: ``q = round(x / scale) + zero_point``.

    Attributes:
        scale: Distance between two neighbouring values, above 0, float32 of shape ``(channels,)`` or ``(1,)``.
        zero_point: Integer that represents 0, int32 of the same shape.
    """

    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class Format:
    """Integer format of a tensor.

    Attributes:
        bits: Bits of an integer: 1 to 8 for weights, 2 to 8 for activations.
        signed: Whether integers are ``-2**(bits-1) .. 2**(bits-1) - 1`` with zero point 0 (weights; for one bit -1 and 1), else
            ``0 .. 2**bits - 1`` (activations).
        axis: Granularity: the dimension with one scale per index, or None for one scale per tensor.
    """

    bits: int
    signed: bool
    axis: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a number of bits out of range."""
        fewest = FEWEST if self.signed else FEWEST_UNSIGNED
        if not fewest <= self.bits <= MOST:
            raise ValueError(f"bits: expected {fewest} to {MOST}, got {self.bits}")

    @property
    def binary(self) -> bool:
        """True for one bit: the integers are signs, -1 and 1."""
        return self.bits == 1

    @property
    def low(self) -> int:
        """Smallest integer."""
        if self.binary:
            return -1
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer."""
        if self.binary:
            return 1
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1

    def quantize(self, values: Tensor, qparams: QParams) -> Tensor:
        """Return the integers nearest to ``values``, int32 of the same shape."""
        if self.binary:
            return signs(values).to(torch.int32)
        scale, zero_point = self.broadcast(qparams.scale, values), self.broadcast(qparams.zero_point, values)
        return torch.round(values.float() * (1.0 / scale)).add(zero_point).clamp(self.low, self.high).to(torch.int32)

    def dequantize(self, integers: Tensor, qparams: QParams) -> Tensor:
        """Return the values that ``integers`` represent, float32 of the same shape."""
        scale, zero_point = self.broadcast(qparams.scale, integers), self.broadcast(qparams.zero_point, integers)
        return (integers - zero_point).float() * scale

    def fake_quantize(self, values: Tensor, qparams: QParams) -> Tensor:
        """Return ``values`` quantized and dequantized by PyTorch's operators, which pass gradients straight through.

        No gradient passes for one bit.
        """
        if self.binary:
            return self.dequantize(self.quantize(values, qparams), qparams).to(values.dtype)
        scale, zero_point, low, high = qparams.scale, qparams.zero_point, self.low, self.high
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, low, high)
        return torch.fake_quantize_per_channel_affine(values, scale, zero_point, self.axis, low, high)

    def broadcast(self, vector: Tensor, values: Tensor) -> Tensor:
        """Return ``vector``, of shape ``(channels,)``, reshaped to broadcast against ``values`` along :attr:`axis`."""
        if self.axis is None:
            return vector
        return vector.reshape([-1 if dim == self.axis else 1 for dim in range(values.dim())])


def signs(values: Tensor) -> Tensor:
    """Return -1 where a value is below 0 and 1 elsewhere, in the values' dtype and shape."""
    return torch.where(values < 0.0, -1.0, 1.0).to(values.dtype)
