"""Places beside channels: hidden units of layers over tokens, in tensors whose labels name the channels that pass through them.

A label is one channel per element; a tensor of channels times hidden tokens has two. The second one is followed through
element-wise code only, from one layer over tokens to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class Beside:
    """Units along one dimension of a tensor, beside the channels of its labels.

    Attributes:
        dim: The dimension, counted from the end.
        atoms: Their atoms, int64 of shape ``(size,)``.
    """

    dim: int
    atoms: Tensor


class BesideRecord:
    """The tensors of a labelled pass that have units beside their channels."""

    def __init__(self) -> None:
        self._found: Any = WeakTensorKeyDictionary()

    def find(self, tensor: Tensor) -> Beside | None:
        """Return the units of ``tensor``; None if it has none."""
        found: Beside | None = self._found.get(tensor) if self._found else None
        return found

    def set(self, tensor: Tensor, units: Beside) -> None:
        """Give ``tensor`` its units."""
        self._found[tensor] = units

    def follow(self, tracker: Any, name: str, tensors: list[Tensor], output: Any, elementwise: bool) -> None:
        """Give the result of an operator the units of its arguments; freeze them where it is not ``elementwise``.

        Args:
            tracker: The :class:`~spaces.channels.labels.tracker.LabelTracker` of the pass.
            name: Name of the operator.
            tensors: The tensors among its arguments.
            output: Its result.
            elementwise: Whether every element of the result comes of the same element of each argument.
        """
        held = [(tensor, units) for tensor in tensors if (units := self.find(tensor)) is not None]
        if not held:
            return
        first, units = held[0]
        result = output if isinstance(output, Tensor) else output[0]
        even = elementwise and result.shape == first.shape
        for tensor in tensors:
            other = self.find(tensor)
            alone = other is None and (tensor.dim() < -units.dim or tensor.shape[units.dim] == 1)
            even &= alone or (other is not None and other.dim == units.dim and len(other.atoms) == len(units.atoms))
        for _, other in held:
            if even:
                tracker.unite(units.atoms, other.atoms, f"{name} with values of no channel and a fixed size")
            else:
                tracker.freeze(other.atoms, f"{name} reads places of channels, such as tokens, whose number is fixed")
        if even:
            self.set(result, units)
            tracker.memory.label_beside(result, units.atoms)
