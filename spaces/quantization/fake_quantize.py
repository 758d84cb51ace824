"""Fake quantization: values rounded to the integers of a few bits and back, in floating point.

Uniform affine: ``q = clamp(round(x / scale) + zero_point, low, high)`` and back ``(q - zero_point) * scale``, halves rounded
to even, as PyTorch's ``fake_quantize`` operators and ONNX's QuantizeLinear do. Weights have a scale per output channel and
no zero point; activations one scale, and a zero point where they have values below 0.

Gradients pass straight through inside the range and are cut outside (Bengio, Leonard, Courville 2013, arXiv 1308.3432). With
a learned step the scale has the gradient of LSQ (Esser et al., ICLR 2020, arXiv 1902.08153, equation 3), divided by
``sqrt(elements * high)`` as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FEWEST, MOST = 2, 8
"""Bits that a quantizer may have."""


@dataclass(frozen=True)
class QParams:
    """What makes integers of values.

    Attributes:
        scale: Distance of two neighbouring values, above 0, float32 of shape ``(channels,)`` or ``(1,)``.
        zero_point: The integer that stands for 0, int32 of the same shape.
    """

    scale: Tensor
    zero_point: Tensor


def integer_range(bits: int, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest integer of ``bits`` bits."""
    if not FEWEST <= bits <= MOST:
        raise ValueError(f"bits: expected {FEWEST} to {MOST}, got {bits}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def to_integers(values: Tensor, step: QParams, bits: int, signed: bool, axis: int | None) -> Tensor:
    """Return the integers that ``values`` are rounded to, int32 of the same shape."""
    low, high = integer_range(bits, signed)
    scale, zero_point = (along(part, values, axis) for part in (step.scale, step.zero_point))
    return torch.round(values.float() * (1.0 / scale)).add(zero_point).clamp(low, high).to(torch.int32)


def from_integers(integers: Tensor, step: QParams, axis: int | None) -> Tensor:
    """Return the values that ``integers`` stand for, float32 of the same shape."""
    scale, zero_point = (along(part, integers, axis) for part in (step.scale, step.zero_point))
    return (integers - zero_point).float() * scale


def along(part: Tensor, values: Tensor, axis: int | None) -> Tensor:
    """Return a vector in the shape in which it meets ``values`` along ``axis``."""
    return part if axis is None else part.reshape([-1 if dim == axis else 1 for dim in range(values.dim())])


def fake_quantize(values: Tensor, step: QParams, bits: int, signed: bool, axis: int | None) -> Tensor:
    """Return ``values`` as ``bits`` bits hold them, by PyTorch's operators (gradients pass straight through)."""
    low, high = integer_range(bits, signed)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(values, step.scale, step.zero_point, low, high)
    return torch.fake_quantize_per_channel_affine(values, step.scale, step.zero_point, axis, low, high)


class _Straight(torch.autograd.Function):
    """The operators' arithmetic with a gradient for the scale, one per channel, faster than they are on CPUs."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, axis: int, factor: float
    ) -> Tensor:
        """Return the quantized values, in their own dtype."""
        wide = values if values.dtype == torch.float64 else values.float()
        at, zero = along(scale.to(wide.dtype), values, axis), along(zero_point, values, axis)
        ctx.save_for_backward(values, scale, zero_point)
        ctx.options = low, high, axis, factor
        return (wide * (1.0 / at)).round_().clamp_(low - zero, high - zero).mul_(at).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        """Return the gradients of values and scale."""
        values, scale, zero_point = ctx.saved_tensors
        low, high, axis, factor = ctx.options
        (gradient,) = gradients
        wide = values if values.dtype == torch.float64 else values.float()
        at, zero = along(scale.to(wide.dtype), values, axis), along(zero_point, values, axis)
        exact = wide * (1.0 / at)
        # The operators judge by the rounded integer whether a value is inside.
        rounded = exact.round()
        least, most = low - zero, high - zero
        inside = ((rounded >= least) & (rounded <= most)).to(exact.dtype)
        passed = gradient * inside.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None, None, None
        slope = rounded.clamp_(least, most).sub_(exact.mul_(inside)).mul_(gradient)
        total = slope.sum([dim for dim in range(values.dim()) if dim != axis])
        return passed, (total * factor).to(scale.dtype), None, None, None, None, None


class _StraightTensor(torch.autograd.Function):
    """The same for one scale, in fewer passes over memory: in the values' own dtype, with masks that are never written.

    In bfloat16 the integers, at most 255, are exact; values next to the middle between two may go to either.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, factor: float) -> Tensor:
        """Return the quantized values, in their own dtype."""
        step, zero = float(scale), int(zero_point)
        quantized = (values * float(1.0 / scale)).round_().clamp_(low - zero, high - zero).mul_(step)
        ctx.save_for_backward(values, quantized)
        ctx.options = (low - zero - 0.5) * step, (high - zero + 0.5) * step, factor / step, scale.dtype
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        """Return the gradients of values and scale."""
        values, quantized = ctx.saved_tensors
        least, most, factor, dtype = ctx.options
        (gradient,) = gradients
        passed = torch.ops.aten.hardtanh_backward(gradient, values, least, most)
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None, None
        # Inside, the slope is (quantized - value) / scale; outside it is the last integer, quantized / scale.
        total = _dot(gradient, quantized - values) + _dot(gradient - passed, values)
        return passed, (total * factor).to(dtype).reshape(1), None, None, None, None


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of products in float32, or float64 for such."""
    same = one.stride() == other.stride() and one.numel() == one.untyped_storage().nbytes() // one.element_size()
    if same and one.numel() == other.untyped_storage().nbytes() // other.element_size():
        flat = (one.numel(),), (1,)
        return torch.dot(one.as_strided(*flat), other.as_strided(*flat)).to(torch.promote_types(one.dtype, torch.float32))
    return (one * other).sum(dtype=torch.promote_types(one.dtype, torch.float32))


class Quantizer(nn.Module):
    """Quantizes what passes through it, to a number of bits that is fixed for one network.

    Args:
        bits: 2 to 8.
        signed: Whether integers are ``-2**(bits-1) .. 2**(bits-1) - 1`` (weights), else ``0 .. 2**bits - 1``.
        channels: Number of scales, 1 for one for all.
        axis: Dimension that the scales go along, None for one for all.
        learned: Whether training moves the scale.

    Attributes:
        enabled: Whether it does anything.
        steps: What was calibrated for other numbers of bits; not saved.
        width: The bits, uint8 of shape ``(1,)``, so that saved weights tell them.
    """

    scale: Tensor
    zero_point: Tensor
    width: Tensor

    def __init__(self, bits: int, *, signed: bool, channels: int = 1, axis: int | None = None, learned: bool = False) -> None:
        super().__init__()
        integer_range(bits, signed)
        self.bits = bits
        self.signed = signed
        self.axis = axis
        self.learned = learned
        self.enabled = True
        self.steps: Mapping[int, QParams] = {}
        scale = torch.ones(channels)
        if learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("width", torch.tensor([bits], dtype=torch.uint8))

    @property
    def step(self) -> QParams:
        """The scale (which a training may have pushed below 0) and the zero point, as they are used."""
        return QParams(self.scale.abs().clamp_min(torch.finfo(torch.float32).tiny), self.zero_point)

    def calibrate(self, steps: Mapping[int, QParams]) -> None:
        """Take the step of the quantizer's own bits, and keep the others for :meth:`quantized`."""
        self.steps = dict(steps)
        with torch.no_grad():
            self.scale.copy_(steps[self.bits].scale)
            self.zero_point.copy_(steps[self.bits].zero_point)

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` as the quantizer's bits hold them, of the same shape and dtype."""
        if not self.enabled:
            return values
        if torch.compiler.is_compiling():
            # The operators have no form for this.
            integers = to_integers(values, self.step, self.bits, self.signed, self.axis)
            return from_integers(integers, self.step, self.axis).to(values.dtype)
        wanted = torch.is_grad_enabled() and (values.requires_grad or self.scale.requires_grad)
        if not (wanted or values.dtype == torch.float64):
            step = self.step
            return fake_quantize(values, QParams(step.scale.detach(), step.zero_point), self.bits, self.signed, self.axis)
        low, high = integer_range(self.bits, self.signed)
        factor = 1.0 / math.sqrt(max(1, values.numel() // len(self.scale)) * high)
        scale, zero_point = self.step.scale, self.zero_point
        quantized: Tensor
        if self.axis is None:
            quantized = _StraightTensor.apply(values, scale, zero_point, low, high, factor)
        else:
            quantized = _Straight.apply(values, scale, zero_point, low, high, self.axis, factor)
        return quantized

    def quantized(self, values: Tensor, bits: int) -> Tensor:
        """Return ``values`` as ``bits`` bits would hold them, with the step calibrated for those bits."""
        return fake_quantize(values, self.steps[bits], bits, self.signed, self.axis)

    def extra_repr(self) -> str:
        """Return what a person reads of it."""
        return f"bits={self.bits}, signed={self.signed}, scales={len(self.scale)}, learned={self.learned}"


class StoredQuantizer(nn.Module):
    """A quantizer of activations that is trained no more.

    Args:
        bits: 2 to 8.

    Attributes:
        step: Scale and zero point, float32 of shape ``(2,)``.
    """

    step: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("step", torch.tensor([1.0, 0.0]))

    @staticmethod
    def of(quantizer: Quantizer) -> StoredQuantizer:
        """Return the stored form of a quantizer with one unsigned scale."""
        stored = StoredQuantizer(quantizer.bits).to(quantizer.scale.device)
        step = quantizer.step
        stored.step = torch.cat([step.scale.detach(), step.zero_point.to(step.scale.dtype)])
        return stored

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` as the quantizer's bits hold them, of the same shape and dtype."""
        step = QParams(self.step[:1], self.step[1:].to(torch.int32))
        if values.dtype == torch.float64 or torch.compiler.is_compiling():
            # The operator has no form for these.
            return from_integers(to_integers(values, step, self.bits, False, None), step, None).to(values.dtype)
        return fake_quantize(values, step, self.bits, signed=False, axis=None)

    def extra_repr(self) -> str:
        """Return what a person reads of it."""
        return f"bits={self.bits}"
