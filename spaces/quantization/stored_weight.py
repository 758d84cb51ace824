"""Stored weights: integers of 1 to 8 bits packed into bytes without gaps, with their scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spaces.quantization.format import Format, QParams


def pack_integers(integers: Tensor, bits: int) -> Tensor:
    """Pack signed integers of ``bits`` bits into bytes, uint8 of shape ``(ceil(count * bits / 8),)``.

    Integer ``i`` takes bits ``i * bits`` to ``(i + 1) * bits - 1``, the lowest first, in two's complement; a single bit is set
    for -1 and not for 1.

    Raises:
        ValueError: An integer is out of the range of ``bits`` bits.
    """
    target = Format(bits, signed=True)
    low, high = target.low, target.high
    flat = integers.reshape(-1).to(torch.int64)
    if flat.numel() and not flat.is_meta and not (low <= int(flat.min()) and int(flat.max()) <= high):
        raise ValueError(f"expected integers of {bits} bits, {low} to {high}; got {int(flat.min())} to {int(flat.max())}")
    if target.binary:
        if not flat.is_meta and bool((flat == 0).any()):
            raise ValueError("expected integers of 1 bit, -1 or 1; got 0")
        flat = (flat < 0).to(torch.int64)
    places = torch.arange(bits, device=flat.device)
    stream = ((flat[:, None] >> places) & 1).reshape(-1).to(torch.uint8)
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8))
    weights = (1 << torch.arange(8, device=flat.device)).to(torch.uint8)
    return (stream.reshape(-1, 8) * weights).sum(1, dtype=torch.uint8)


def unpack_integers(packed: Tensor, bits: int, count: int) -> Tensor:
    """Unpack the ``count`` integers that :func:`pack_integers` packed, int32 of shape ``(count,)``."""
    # Division and remainder, unlike shifts, can be exported to ONNX.
    powers = torch.tensor([1 << place for place in range(8)], dtype=torch.int32, device=packed.device)
    stream = (torch.div(packed[:, None].to(torch.int32), powers, rounding_mode="floor") % 2).reshape(-1)
    digits = stream[: count * bits].reshape(count, bits)
    if bits == 1:
        return (1 - 2 * digits[:, 0]).to(torch.int32)
    worth = [1 << place for place in range(bits - 1)] + [-(1 << (bits - 1))]
    return (digits * torch.tensor(worth, dtype=torch.int32, device=packed.device)).sum(1, dtype=torch.int32)


def packed_bytes(count: int, bits: int) -> int:
    """Return the number of bytes of ``count`` packed integers of ``bits`` bits."""
    return math.ceil(count * bits / 8)


class StoredWeight(nn.Module):
    """A weight stored as packed integers; a call returns the float weight.

    Args:
        shape: Shape of the weight.
        bits: Bits of an integer, 1 to 8.
        axis: Channel dimension, with one scale per index.

    Attributes:
        packed: The integers, uint8; see :func:`pack_integers`.
        scale: Float value of integer 1, float32 of shape ``(shape[axis],)``.
    """

    packed: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], bits: int, axis: int) -> None:
        """Start with integers of 0 and scales of 1."""
        super().__init__()
        self.shape = tuple(shape)
        self.axis = axis
        self.format = Format(bits, signed=True, axis=axis)
        self.register_buffer("packed", torch.zeros(packed_bytes(math.prod(shape), bits), dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(self.shape[axis]))
        self._values: tuple[object, Tensor] | None = None

    @property
    def bits(self) -> int:
        """Bits of an integer."""
        return self.format.bits

    @property
    def count(self) -> int:
        """Number of integers."""
        return math.prod(self.shape)

    def integers(self) -> Tensor:
        """Return the integers, int32 in the shape of the weight."""
        return unpack_integers(self.packed, self.bits, self.count).reshape(self.shape)

    def forward(self) -> Tensor:
        """Return the weight in the dtype of the scale, cached until a buffer changes; not cached while exporting."""
        if torch.compiler.is_compiling():
            return self._compute()
        made_from = (self.packed.data_ptr(), self.packed._version, self.scale.data_ptr(), self.scale._version, self.scale.dtype)
        if self._values is None or self._values[0] != made_from:
            with torch.inference_mode(False), torch.no_grad():
                self._values = made_from, self._compute()
        return self._values[1]

    def _compute(self) -> Tensor:
        zero = torch.zeros(1, dtype=torch.int32, device=self.packed.device)
        return self.format.dequantize(self.integers(), QParams(self.scale, zero))

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the cached weight."""
        return {**self.__dict__, "_values": None}

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        return f"shape={self.shape}, bits={self.bits}"


def stored_weights(model: nn.Module, remove_duplicate: bool = True) -> dict[str, StoredWeight]:
    """Return the weights of a network that are stored as integers, by module name.

    Args:
        model: The network.
        remove_duplicate: Whether a weight used in several places is named once; else under each of its names.
    """
    modules = model.named_modules(remove_duplicate=remove_duplicate)
    return {name: module for name, module in modules if isinstance(module, StoredWeight)}
