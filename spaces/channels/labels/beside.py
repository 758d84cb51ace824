"""Places beside channels: units along a second dimension of tensors, whose labels name the channels along the first.

A label is one channel per element; a tensor of channels times hidden tokens has two, and one of heads times places within every
head. The second one is followed through element-wise code, and through code that moves whole lines of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from spaces.channels.labels.atoms import along, varying, vector


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

    def spread(self, tensor: Tensor, like: Tensor | None = None) -> Tensor:
        """Return the units of ``tensor`` at each of its elements, int64 of its shape, 0 for one without any.

        They are named by those ``like`` which they are united, where these are as many.
        """
        units = self.find(tensor)
        if units is None:
            return torch.zeros((), dtype=torch.int64).expand(tensor.shape)
        atoms = units.atoms if like is None or len(like) != len(units.atoms) else like
        return along(atoms, units.dim % tensor.dim(), tensor.shape)

    def place(self, tracker: Any, output: Tensor, spread: Tensor, before: Tensor, why: str) -> None:
        """Give a tensor the units that lie at its elements; freeze them where they do not lie along a dimension of their own.

        Args:
            tracker: The :class:`~spaces.channels.labels.tracker.LabelTracker` of the pass.
            output: The tensor, which has its labels.
            spread: Units at its elements, int64 of its shape.
            before: All units of what it is made of.
            why: Reason to freeze them for.
        """
        wide = varying(spread)
        line = vector(spread, wide[0]) if len(wide) == 1 else None
        whole = line is not None and line.shape == before.shape and bool((line == before).all())
        if not whole or wide[0] in varying(tracker.labels(output)):
            tracker.freeze(before, why)
            return
        self.set(output, Beside(wide[0] - output.dim(), before))
        tracker.memory.label_beside(output, before)

    def move(
        self, tracker: Any, name: str, tensors: list[Tensor], moved: Callable[[Callable[[Tensor], Tensor]], Any], output: Any
    ) -> None:
        """Follow an operator that moves elements: ``moved`` runs it on what a function gives for each of its tensors."""
        held = [units.atoms for tensor in tensors if (units := self.find(tensor)) is not None]
        if not held:
            return
        for other in held[1:]:
            if len(other) == len(held[0]):
                tracker.unite(held[0], other, "joined with values of no channel")
        spread = moved(lambda tensor: self.spread(tensor, held[0]))
        pairs = [(output, spread)] if isinstance(output, Tensor) else zip(output, spread, strict=True)
        for tensor, units in pairs:
            self.place(
                tracker, tensor, units, held[0], f"{name} reads places of channels, such as tokens, whose number is fixed"
            )

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
