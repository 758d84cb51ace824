"""Floating-point formats: limits, and rounding to them in numpy, so that ONNX models are merged without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format.

    Attributes:
        name: Name, such as ``float16``.
        eps: Difference between 1 and the next larger number.
        tiny: Smallest positive normal number.
        largest: Largest finite number.
    """

    name: str
    eps: float
    tiny: float
    largest: float

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Return float64 ``values`` rounded to this format, halves to even, as float64; too large ones become infinite.

        Formats of fewer than 32 bits are reached by way of float32, as PyTorch does.
        """
        if self.eps <= FLOAT64.eps:
            return values
        with np.errstate(all="ignore"):
            single = values.astype(np.float32).astype(np.float64)
            if self.eps <= FLOAT32.eps:
                return single
            _, exponents = np.frexp(single)
            smallest = np.frexp(self.tiny)[1]
            steps = np.ldexp(self.eps / 2, np.maximum(exponents, smallest))
            found: np.ndarray = np.rint(single / steps) * steps
            return np.where(np.abs(found) > self.largest, np.copysign(np.inf, found), found)


FLOAT16 = FloatFormat("float16", 2.0**-10, 2.0**-14, 65504.0)
BFLOAT16 = FloatFormat("bfloat16", 2.0**-7, 2.0**-126, float.fromhex("0x1.fep127"))
FLOAT32 = FloatFormat("float32", 2.0**-23, 2.0**-126, float.fromhex("0x1.fffffep127"))
FLOAT64 = FloatFormat("float64", 2.0**-52, 2.0**-1022, float.fromhex("0x1.fffffffffffffp1023"))
