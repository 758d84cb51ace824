"""Stored weights: integers of 2 to 8 bits, packed without a gap, and what makes values of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spaces.quantization.fake_quantize import QParams, from_integers, integer_range


def pack_integers(integers: Tensor, bits: int) -> Tensor:
    """Return signed integers of ``bits`` bits as bytes, uint8 of shape ``(ceil(count * bits / 8),)``.

    Value ``i`` has the bits ``i * bits`` to ``(i + 1) * bits - 1``, the lowest first, in two's complement.
    """
    low, high = integer_range(bits, signed=True)
    flat = integers.reshape(-1).to(torch.int64)
    if flat.numel() and not (low <= int(flat.min()) and int(flat.max()) <= high):
        raise ValueError(f"expected integers of {bits} bits, {low} to {high}; got {int(flat.min())} to {int(flat.max())}")
    places = torch.arange(bits, device=flat.device)
    stream = ((flat[:, None] >> places) & 1).reshape(-1).to(torch.uint8)
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8))
    weights = (1 << torch.arange(8, device=flat.device)).to(torch.uint8)
    return (stream.reshape(-1, 8) * weights).sum(1, dtype=torch.uint8)


def unpack_integers(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the ``count`` integers that :func:`pack_integers` packed, int32 of shape ``(count,)``."""
    stream = ((packed[:, None] >> torch.arange(8, device=packed.device, dtype=torch.uint8)) & 1).reshape(-1)
    digits = stream[: count * bits].reshape(count, bits).to(torch.int32)
    places = [1 << place for place in range(bits - 1)] + [-(1 << (bits - 1))]
    return (digits * torch.tensor(places, dtype=torch.int32, device=packed.device)).sum(1, dtype=torch.int32)


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` integers of ``bits`` bits take."""
    return math.ceil(count * bits / 8)


class StoredWeight(nn.Module):
    """A weight as integers; called, it returns the values.

    Args:
        shape: Shape of the weight.
        bits: Bits of an integer.
        axis: Dimension that the scales go along.

    Attributes:
        packed: The integers, uint8; see :func:`pack_integers`.
        scale: Value of an integer's 1, float32, one per channel along ``axis``.
    """

    packed: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], bits: int, axis: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.bits = bits
        self.axis = axis
        self.register_buffer("packed", torch.zeros(packed_bytes(math.prod(shape), bits), dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(self.shape[axis]))
        self._values: tuple[object, Tensor] | None = None

    @property
    def count(self) -> int:
        """Number of integers."""
        return math.prod(self.shape)

    def integers(self) -> Tensor:
        """Return the integers, int32 in the shape of the weight."""
        return unpack_integers(self.packed, self.bits, self.count).reshape(self.shape)

    def forward(self) -> Tensor:
        """Return the values, in the dtype of the scale; worked out once, unless the network is being exported."""
        if torch.compiler.is_compiling():
            return self._compute()
        made_from = (self.packed.data_ptr(), self.packed._version, self.scale.data_ptr(), self.scale._version, self.scale.dtype)
        if self._values is None or self._values[0] != made_from:
            with torch.inference_mode(False), torch.no_grad():
                self._values = made_from, self._compute()
        return self._values[1]

    def _compute(self) -> Tensor:
        zero = torch.zeros(1, dtype=torch.int32, device=self.packed.device)
        return from_integers(self.integers(), QParams(self.scale, zero), self.axis)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_values": None}

    def extra_repr(self) -> str:
        """Return what a person reads of it."""
        return f"shape={self.shape}, bits={self.bits}"
