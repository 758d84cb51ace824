"""Masked calls: single calls of functions in which removed channels must have no effect, noted by the labelled pass.

A layer that is a module of its own is masked at its input. Code that contracts channels with a parameter of its own, or takes
statistics over channels, has no such place: the masked network gives the very call the kept channels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from spaces.channels.labels.atoms import compact, vector
from spaces.layers.call_masks import CallMask, OperandMask


@dataclass(frozen=True)
class Operand:
    """The channels of one tensor of a call.

    Attributes:
        leaf: Place of the tensor among the leaves of the arguments, or of the result.
        dim: Dimension of the channels, counted from the end.
        channels: Atoms in a trace, mask positions in groups (-1: always kept), int64 of shape ``(size,)``.
    """

    leaf: int
    dim: int
    channels: np.ndarray


@dataclass(frozen=True)
class MaskedCall:
    """A call in which removed channels must have no effect; attributes as those of :class:`~spaces.layers.call_masks.CallMask`.

    Attributes:
        module: Name of the module whose code makes the call; empty for the network itself.
    """

    module: str
    function: str
    number: int
    zeroed: tuple[Operand, ...]
    gathered: tuple[Operand, ...]
    scattered: tuple[Operand, ...]

    @property
    def operands(self) -> tuple[Operand, ...]:
        """All operands."""
        return (*self.zeroed, *self.gathered, *self.scattered)

    def mapped(self, places: Callable[[np.ndarray], np.ndarray]) -> MaskedCall:
        """Return the call with the channels of every operand replaced."""

        def moved(operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
            return tuple(replace(one, channels=places(one.channels)) for one in operands)

        return replace(self, zeroed=moved(self.zeroed), gathered=moved(self.gathered), scattered=moved(self.scattered))

    def mask(self, keep: np.ndarray) -> CallMask | None:
        """Return what the call is given; None where nothing that it works on is removed.

        Args:
            keep: By mask position whether the channel is kept, and True as a last element, boolean of shape ``(width + 1,)``.
        """
        if all(keep[one.channels].all() for one in self.operands):
            return None

        def masks(operands: tuple[Operand, ...]) -> tuple[OperandMask, ...]:
            return tuple(OperandMask(one.leaf, one.dim, torch.from_numpy(keep[one.channels])) for one in operands)

        return CallMask(self.function, self.number, masks(self.zeroed), masks(self.gathered), masks(self.scattered))


class CallRecorder:
    """The masked calls of one labelled pass.

    Attributes:
        calls: Those found so far, by module, function and number.
    """

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str, int], MaskedCall] = {}
        self._counts: list[dict[str, int]] = []
        self._inside = False
        self._zeroed: list[Tensor] = []
        self._gathered = False

    def enter(self) -> None:
        """Note that a module begins to run."""
        self._counts.append({})

    def leave(self) -> None:
        """Note that the module entered last has run."""
        self._counts.pop()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Note that a function runs while the context lasts."""
        self._inside, self._zeroed, self._gathered = True, [], False
        try:
            yield
        finally:
            self._inside = False

    def zeroes(self, atoms: Tensor) -> bool:
        """Ask for removed channels to be zero in the argument of the running function with ``atoms``; False if none runs."""
        if self._inside and self._counts and bool(atoms.any()):
            self._zeroed.append(atoms)
        return self._inside and bool(self._counts)

    def gathers(self) -> bool:
        """Ask for the running function to be given the kept channels alone; False if none runs."""
        self._gathered |= self._inside
        return self._inside and bool(self._counts)

    def called(self, tracker: Any, function: str, args: Any, output: Any) -> None:
        """Count the call of a function, and note its operands where they were asked for.

        Args:
            tracker: The :class:`~spaces.channels.labels.tracker.LabelTracker` of the pass.
            function: Name of the function.
            args: Positional and keyword arguments.
            output: Its result.
        """
        if not self._counts:
            return
        number = self._counts[-1].get(function, 0)
        self._counts[-1][function] = number + 1
        if not (self._zeroed or self._gathered):
            return
        given = _operands(tracker, tree_flatten(args)[0])
        zeroed = []
        for atoms in self._zeroed:
            found = next((one for one in given if np.array_equal(one.channels, atoms.numpy())), None)
            if found is None:
                tracker.freeze(atoms, f"{function} takes its channels apart")
            else:
                zeroed.append(found)
        written = _operands(tracker, tree_flatten(output)[0]) if self._gathered else []
        key = (tracker.stack[-1][0], function, number)
        call = MaskedCall(*key, tuple(zeroed), tuple(given) if self._gathered else (), tuple(written))
        self._zeroed, self._gathered = [], False
        earlier = self.calls.setdefault(key, call)
        if earlier is not call:
            _unite(tracker, earlier, call)


def _operands(tracker: Any, leaves: list[Any]) -> list[Operand]:
    """Return the tensors among ``leaves`` that have channels, those of the network's state by the channels that they follow."""
    found = []
    for leaf, tensor in enumerate(leaves):
        if not isinstance(tensor, Tensor):
            continue
        labels, units = tracker.found(tensor), tracker.beside.find(tensor)
        if units is not None:
            found.append(Operand(leaf, units.dim, units.atoms.numpy()))
        if labels is None:
            for dim in range(tensor.dim()):
                atoms = tracker.tied(tensor, dim)
                if atoms is not None and bool(atoms.any()):
                    found.append(Operand(leaf, dim - tensor.dim(), atoms.numpy()))
            continue
        wide = [dim for dim, size in enumerate(compact(labels).shape) if size > 1]
        if len(wide) == 1 and (atoms := vector(labels, wide[0])) is not None:
            found.append(Operand(leaf, wide[0] - tensor.dim(), atoms.numpy()))
    return found


def _unite(tracker: Any, earlier: MaskedCall, call: MaskedCall) -> None:
    """Unite the channels of a call with those of the same call in an earlier run of its module."""
    first, second = earlier.operands, call.operands
    same = [(one.leaf, one.dim, len(one.channels)) for one in first] == [
        (one.leaf, one.dim, len(one.channels)) for one in second
    ]
    for one, other in zip(first, second, strict=True) if same else ():
        old, new = torch.from_numpy(one.channels), torch.from_numpy(other.channels)
        tracker.unite(old, new, "runs on channels and on values of no channel")
    for one in () if same else (*first, *second):
        tracker.freeze(torch.from_numpy(one.channels), "runs on tensors of several kinds")
