"""Piecewise-linear activations, and the conditions under which two in a row are one.

The family ``f_k(x) = x for x >= 0, k x otherwise`` is closed under composition (CN113011565A; the rule for negative
slopes is ours): ``f_k2(f_k1(x))`` is ``f_k(x)`` with

    k = k1 k2  where k1 >= 0,    k = k1  where k1 < 0

since a negative ``k1`` leaves nothing below zero for the second one to change. Clamps to intervals compose to clamps, and
a clamp to numbers from 0 on meets a function of the family only where that is the identity.

Guarantees for a merged activation against the two that it replaces, on any input:

- The same numbers, bit for bit, where no product of two slopes is involved; within rounding where one is, as long as the
  value between the two neither overflows nor underflows (where it does, the merged one is the more exact of the two).
- The same answer at infinities, and NaN at NaN. Where the two gave NaN because a slope of 0 met minus infinity, the merged
  one may give the limit instead, as if their product were 0.
- The sign of a zero is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np

from spaces.fusion.float_format import FLOAT32, FLOAT64, FloatFormat

Kind = Literal["ReLU", "LeakyReLU", "PReLU", "Clip", "Identity"]

_NODE = 16
"""Numbers that take as many bytes as a node and its entry of a constant in a file: more than these are not added (ours)."""


class NotMergeableError(ValueError):
    """Two activations are not one; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Activation:
    """A piecewise-linear activation.

    Attributes:
        kind: The type; ``Clip`` is any clamp to an interval but ReLU's.
        slope: Factor of values below zero, float64 of shape ``()`` or a PReLU's; unused for ``Clip``.
        low: Lower bound of a clamp.
        high: Upper bound of a clamp.
    """

    kind: Kind
    slope: np.ndarray
    low: float = -inf
    high: float = inf

    @property
    def clamps(self) -> bool:
        """True for a clamp to an interval."""
        return self.kind in ("ReLU", "Clip")

    @property
    def text(self) -> str:
        """Kind and parameters, for reports."""
        if self.kind == "Clip":
            return f"Clip {self.low:g} to {self.high:g}"
        if self.kind in ("ReLU", "Identity"):
            return self.kind
        if self.slope.size == 1:
            return f"{self.kind} {self.slope.item():.6g}"
        return f"{self.kind} {self.slope.min():.4g} to {self.slope.max():.4g} ({self.slope.size} slopes)"

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the activation of ``inputs``, in their dtype."""
        with np.errstate(all="ignore"):
            if self.kind == "Identity":
                return inputs
            if self.clamps:
                outputs: np.ndarray = np.clip(inputs, *np.array([self.low, self.high], inputs.dtype))
            else:
                outputs = np.where(inputs >= 0, inputs, inputs * self.slope.astype(inputs.dtype))
            return outputs


def relu() -> Activation:
    """Return ReLU."""
    return Activation("ReLU", np.zeros(()), 0.0)


def identity() -> Activation:
    """Return the identity."""
    return Activation("Identity", np.ones(()))


def leaky_relu(slope: float) -> Activation:
    """Return LeakyReLU.

    Raises:
        NotMergeableError: ``slope`` is not finite.
    """
    return _rectifier("LeakyReLU", np.asarray(slope, np.float64))


def prelu(slopes: Any) -> Activation:
    """Return PReLU with ``slopes`` of any shape that broadcasts to its inputs.

    Raises:
        NotMergeableError: A slope is not finite, or there is none.
    """
    return _rectifier("PReLU", np.asarray(slopes, np.float64))


def clip(low: float, high: float) -> Activation:
    """Return the clamp to ``[low, high]``; with 0 and infinity, ReLU.

    Raises:
        NotMergeableError: ``low`` is not below ``high``.
    """
    if not low < high:
        raise NotMergeableError(f"clamps to [{low:g}, {high:g}], in which there is at most one number")
    return relu() if (low, high) == (0.0, inf) else Activation("Clip", np.zeros(()), float(low), float(high))


def _rectifier(kind: Kind, slopes: np.ndarray) -> Activation:
    if slopes.size == 0:
        raise NotMergeableError(f"its slopes, of shape {slopes.shape}, are empty")
    if not np.isfinite(slopes).all():
        raise NotMergeableError("a slope is not finite")
    return Activation(kind, slopes)


@dataclass(frozen=True, eq=False)
class Merged:
    """One activation in the place of several.

    Attributes:
        activation: The merged activation.
        exact: Whether no slopes were multiplied, so that outputs are equal to the last bit.
    """

    activation: Activation
    exact: bool


def merge(first: Activation, second: Activation, dtype: FloatFormat, literal: bool = False) -> Merged:
    """Return ``second(first(x))`` as one activation.

    Args:
        first: The activation applied first.
        second: The activation applied to the result.
        dtype: Format of the tensors; slopes are multiplied only where the product is exactly 0 or a finite normal number in it.
        literal: Keep the patent's types: the same type stays, different types become PReLU. Otherwise a slope of 0
            then becomes ReLU, which is 0 at minus infinity where PReLU gives NaN, and a slope of 1 the identity.

    Raises:
        NotMergeableError: The composition is no activation of the family.
    """
    if second.kind == "Identity":
        return Merged(first, True)
    if first.kind == "Identity":
        return Merged(second, True)
    if "Clip" in (first.kind, second.kind):
        return Merged(_with_clip(first, second), True)
    if first.kind == second.kind == "ReLU":
        return Merged(first, True)
    kind: Kind = first.kind if first.kind == second.kind else "PReLU"
    slope, exact = _two_cases(first.slope, second.slope, kind, dtype)
    if not literal:
        if not slope.any():
            return Merged(relu(), exact)
        if (slope == 1.0).all():
            return Merged(identity(), exact)
        if second.kind == "ReLU" and not slope.all():
            raise NotMergeableError("some slopes become 0, where a PReLU gives NaN at minus infinity and the ReLU gave 0")
    return Merged(Activation(kind, slope), exact)


def _two_cases(first: np.ndarray, second: np.ndarray, kind: Kind, dtype: FloatFormat) -> tuple[np.ndarray, bool]:
    """Return the slopes of the composition, and True if none is a rounded product."""
    try:
        one, other = np.broadcast_arrays(first, second)
    except ValueError:
        raise NotMergeableError(f"slopes of shapes {first.shape} and {second.shape} do not fit together") from None
    if one.size > first.size + second.size + _NODE:
        raise NotMergeableError(
            f"slopes of shapes {first.shape} and {second.shape} would become {one.size} numbers, more than both and a node take"
        )
    # A LeakyReLU computes with a slope of at least single precision, whatever its tensors have.
    stored = FLOAT32 if kind == "LeakyReLU" and dtype.eps > FLOAT32.eps else dtype
    factors = stored.rounded(one), stored.rounded(other)
    product = factors[0] * factors[1]
    multiplied = (one >= 0) & (one != 0) & (other != 0)
    rounded = stored.rounded(product)
    normal = np.ones(one.shape, bool)
    for values in (*factors, rounded):
        normal &= (np.abs(values) >= dtype.tiny) & (np.abs(values) <= dtype.largest)
    if not normal[multiplied].all():
        place = np.flatnonzero(multiplied & ~normal)[0]
        product_text = f"{one.flat[place]:.3g} times {other.flat[place]:.3g}"
        raise NotMergeableError(f"{product_text} leaves the normal numbers of {dtype.name}")
    slope = np.where(one < 0, one, np.where(multiplied, rounded, 0.0))
    kept = stored.rounded(slope) == (FLOAT64 if dtype == FLOAT64 else FLOAT32).rounded(slope)
    return slope, bool((kept & (~multiplied | (one == 1.0) | (other == 1.0))).all())


def _with_clip(first: Activation, second: Activation) -> Activation:
    """Return the composition of two activations of which at least one is a clamp other than ReLU."""
    if first.clamps and not second.clamps and first.low >= 0.0:
        return first
    if second.clamps and not first.clamps:
        if second.low >= 0.0 and (first.slope >= 0.0).all():
            return second
        if second.low <= 0.0 and second.high == inf and (first.slope <= 0.0).all():
            return first
    inner, outer = _interval(first), _interval(second)
    if inner is None or outer is None:
        raise NotMergeableError(f"{first.text} then {second.text} bends at more places than one activation does")
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    return clip(low, high)


def _interval(activation: Activation) -> tuple[float, float] | None:
    """Return the bounds of a clamp, None for other activations."""
    if activation.clamps:
        return activation.low, activation.high
    return None if activation.slope.any() else (0.0, inf)


@dataclass(frozen=True, eq=False)
class Run:
    """Members ``start`` to ``stop`` (exclusive) of a chain of connected activations, as one activation."""

    start: int
    stop: int
    activation: Activation
    exact: bool = True

    @property
    def members(self) -> range:
        """Positions in the chain."""
        return range(self.start, self.stop)


def fold_chain(
    chain: Sequence[Activation],
    dtype: FloatFormat,
    literal: bool = False,
    admissible: Callable[[Run], str | None] = lambda run: None,
) -> tuple[list[Run], dict[tuple[int, int], str]]:
    """Merge a chain pairwise, from the left, until no two neighbors can be merged.

    Args:
        chain: Connected activations, in the order in which they are applied.
        dtype: Format of the tensors.
        literal: See :func:`merge`.
        admissible: Returns the reason against replacing a run of the chain by one activation, or None.

    Returns:
        The remaining runs, in order, and the reasons against merging neighbors, by (last member of one, first of the other).
    """
    runs = [Run(index, index + 1, activation) for index, activation in enumerate(chain)]
    reasons: dict[tuple[int, int], str] = {}
    index = 0
    while index + 1 < len(runs):
        one, other = runs[index : index + 2]
        try:
            merged = merge(one.activation, other.activation, dtype, literal)
            run = Run(one.start, other.stop, merged.activation, one.exact and other.exact and merged.exact)
            reason = admissible(run)
        except NotMergeableError as error:
            reason = str(error)
        if reason is None:
            runs[index : index + 2] = [run]
            reasons.pop((one.stop - 1, one.stop), None)
            # What is merged may go together with what was before it, where the parts did not.
            index = max(0, index - 1)
        else:
            reasons[one.stop - 1, one.stop] = reason
            index += 1
    return runs, reasons
