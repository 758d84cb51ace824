"""Fake quantization in the forward pass: values rounded to the integers of a :class:`Format` and back, in floating point.

Weights have a scale per output channel and no zero point; activations have one scale, and a zero point where values are
negative. Gradients pass straight through inside the range and are cut outside (Bengio, Leonard, Courville 2013,
arXiv 1308.3432). With learned scales the gradient of a scale is that of LSQ (Esser et al., ICLR 2020, arXiv 1902.08153,
equation 3), divided by ``sqrt(elements * high)`` as in the paper. At one bit the gradient of every weight passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spaces.quantization.format import Format, QParams, signs


class _PerChannel(torch.autograd.Function):
    """Per-channel fake quantization with a gradient for the scales, shape ``(channels,)``; faster than the operator on CPUs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, target: Format, factor: float) -> Tensor:
        """Return the quantized values, in their own dtype."""
        wide = values if values.dtype == torch.float64 else values.float()
        at, zero = target.broadcast(scale.to(wide.dtype), values), target.broadcast(zero_point, values)
        ctx.save_for_backward(values, scale, zero_point)
        ctx.options = target, factor
        if target.binary:
            return signs(wide).mul_(at).to(values.dtype)
        return (wide * (1.0 / at)).round_().clamp_(target.low - zero, target.high - zero).mul_(at).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Return the gradients of values and scale."""
        values, scale, zero_point = ctx.saved_tensors
        target, factor = ctx.options
        (gradient,) = gradients
        wide = values if values.dtype == torch.float64 else values.float()
        at, zero = target.broadcast(scale.to(wide.dtype), values), target.broadcast(zero_point, values)
        exact = wide * (1.0 / at)
        # As PyTorch's operators: a value is inside if its rounded integer is.
        rounded = signs(wide) if target.binary else exact.round()
        least, most = target.low - zero, target.high - zero
        inside = ((rounded >= least) & (rounded <= most)).to(exact.dtype)
        passed = gradient * inside.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None
        # The scale of a sign is no step, between whose multiples a value would lie.
        distance = 0.0 if target.binary else exact.mul_(inside)
        slope = rounded.clamp_(least, most).sub_(distance).mul_(gradient)
        total = slope.sum([dim for dim in range(values.dim()) if dim != target.axis])
        return passed, (total * factor).to(scale.dtype), None, None, None


class _PerTensor(torch.autograd.Function):
    """Per-tensor fake quantization with a gradient for the scale, in few passes over memory and in the dtype of the values.

    In bfloat16 the integers, at most 255, are exact; a value close to the middle of two may be rounded to either.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, target: Format, factor: float) -> Tensor:
        """Return the quantized values, in their own dtype."""
        step, low, high = float(scale), target.low - int(zero_point), target.high - int(zero_point)
        quantized = (values * float(1.0 / scale)).round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(values, quantized)
        ctx.options = (low - 0.5) * step, (high + 0.5) * step, factor / step, scale.dtype
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Return the gradients of values and scale."""
        values, quantized = ctx.saved_tensors
        least, most, factor, dtype = ctx.options
        (gradient,) = gradients
        passed = torch.ops.aten.hardtanh_backward(gradient, values, least, most)
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None
        # Inside, the slope is (quantized - value) / scale; outside it is the last integer, quantized / scale.
        total = _dot(gradient, quantized - values) + _dot(gradient - passed, values)
        return passed, (total * factor).to(dtype).reshape(1), None, None, None


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of the products of two tensors of one shape, in float32, or in float64 if one of them is."""
    same = one.stride() == other.stride() and one.numel() == one.untyped_storage().nbytes() // one.element_size()
    if same and one.numel() == other.untyped_storage().nbytes() // other.element_size():
        flat = (one.numel(),), (1,)
        return torch.dot(one.as_strided(*flat), other.as_strided(*flat)).to(torch.promote_types(one.dtype, torch.float32))
    return (one * other).sum(dtype=torch.promote_types(one.dtype, torch.float32))


class Quantizer(nn.Module):
    """A module that fake-quantizes its input to one format.

    Args:
        target: Format of the integers.
        channels: Number of scales, 1 without an axis.
        learned: Whether training updates the scales.

    Attributes:
        scale: Scales as stored, float32 of shape ``(channels,)``; a training may push one below 0, see :attr:`qparams`.
        zero_point: Zero points, int32 of the same shape.
        width: Number of bits, uint8 of shape ``(1,)``, so that saved weights contain it.
        enabled: Whether inputs are quantized; if not, they are returned unchanged.
        calibrated: Parameters by number of bits, from the last calibration; not saved.
    """

    scale: Tensor
    zero_point: Tensor
    width: Tensor

    def __init__(self, target: Format, channels: int = 1, learned: bool = False) -> None:
        """Start with scales of 1 and zero points of 0."""
        super().__init__()
        self.format = target
        self.learned = learned
        self.enabled = True
        self.calibrated: Mapping[int, QParams] = {}
        scale = torch.ones(channels)
        if learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("width", torch.tensor([target.bits], dtype=torch.uint8))

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self.format.bits

    @property
    def qparams(self) -> QParams:
        """Scales (magnitudes of the stored ones, above 0) and zero points."""
        return QParams(self.scale.abs().clamp_min(torch.finfo(torch.float32).tiny), self.zero_point)

    def calibrate(self, calibrated: Mapping[int, QParams]) -> None:
        """Set scales and zero points to those of the quantizer's own bits; keep all for :meth:`quantized`.

        Args:
            calibrated: Parameters by number of bits, the quantizer's own among them.
        """
        self.calibrated = dict(calibrated)
        with torch.no_grad():
            self.scale.copy_(calibrated[self.bits].scale)
            self.zero_point.copy_(calibrated[self.bits].zero_point)

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` fake-quantized, of the same shape and dtype."""
        if not self.enabled:
            return values
        if torch.compiler.is_compiling():
            # The operators cannot be exported.
            return self.format.dequantize(self.format.quantize(values, self.qparams), self.qparams).to(values.dtype)
        wanted = torch.is_grad_enabled() and (values.requires_grad or self.scale.requires_grad)
        if not (wanted or values.dtype == torch.float64):
            return self.format.fake_quantize(values, QParams(self.qparams.scale.detach(), self.zero_point))
        factor = 1.0 / math.sqrt(max(1, values.numel() // len(self.scale)) * self.format.high)
        function = _PerTensor if self.format.axis is None else _PerChannel
        quantized: Tensor = function.apply(values, self.qparams.scale, self.zero_point, self.format, factor)
        return quantized

    def quantized(self, values: Tensor, bits: int) -> Tensor:
        """Return ``values`` fake-quantized to ``bits`` bits instead, with the parameters calibrated for them."""
        return replace(self.format, bits=bits).fake_quantize(values, self.calibrated[bits])

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        return f"bits={self.bits}, signed={self.format.signed}, scales={len(self.scale)}, learned={self.learned}"


class StoredQuantizer(nn.Module):
    """A quantizer of activations in the stored form of a network, which cannot be trained.

    Args:
        bits: 2 to 8.

    Attributes:
        step: Scale and zero point, float32 of shape ``(2,)``.
    """

    step: Tensor

    def __init__(self, bits: int) -> None:
        """Start with scale 1 and zero point 0."""
        super().__init__()
        self.format = Format(bits, signed=False)
        self.register_buffer("step", torch.tensor([1.0, 0.0]))

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self.format.bits

    @staticmethod
    def of(quantizer: Quantizer) -> StoredQuantizer:
        """Return the stored form of an unsigned quantizer with one scale."""
        stored = StoredQuantizer(quantizer.bits).to(quantizer.scale.device)
        qparams = quantizer.qparams
        stored.step = torch.cat([qparams.scale.detach(), qparams.zero_point.to(qparams.scale.dtype)])
        return stored

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` fake-quantized, of the same shape and dtype."""
        qparams = QParams(self.step[:1], self.step[1:].to(torch.int32))
        if values.dtype == torch.float64 or torch.compiler.is_compiling():
            # The operator takes no float64 and cannot be exported.
            return self.format.dequantize(self.format.quantize(values, qparams), qparams).to(values.dtype)
        return self.format.fake_quantize(values, qparams)

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        return f"bits={self.bits}"


def fake_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Return the fake quantizers of a network by module name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}


def stored_quantizers(model: nn.Module, remove_duplicate: bool = True) -> dict[str, StoredQuantizer]:
    """Return the quantizers of a network's stored form by module name.

    Args:
        model: The network.
        remove_duplicate: Whether a quantizer used in several places is named once; else under each of its names.
    """
    modules = model.named_modules(remove_duplicate=remove_duplicate)
    return {name: module for name, module in modules if isinstance(module, StoredQuantizer)}
