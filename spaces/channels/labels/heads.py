"""Head views: the views by which code parts channels into heads, and the dimensions along which heads and their places lie.

A view that lays channels out along two dimensions may keep whole rows of them or whole columns. Which of the two an attention
asks for is known only once it is run, on tensors that the view's result has been moved to. So the first labelled pass follows
every channel to the attention, and the passes after it are told the dimensions of every view that led there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from spaces.channels.labels.atoms import compact


@dataclass(frozen=True)
class _Grid:
    """Channels that a view has laid out along several dimensions.

    Attributes:
        number: Number of views before.
        shape: Sizes of the result, 1 along dimensions without channels.
        atoms: Its atoms in ascending order, int64 of shape ``(size,)``.
        places: Place of each of them among the elements of ``shape``.
    """

    number: int
    shape: tuple[int, ...]
    atoms: np.ndarray
    places: np.ndarray

    def dim_of(self, line: np.ndarray) -> int | None:
        """Return the dimension along which the atoms of ``line`` lie; None where they are not here, or lie along several."""
        if not self.atoms[0] <= line[0] <= self.atoms[-1]:
            return None
        found = np.searchsorted(self.atoms, line).clip(max=len(self.atoms) - 1)
        if (self.atoms[found] != line).any():
            return None
        along = np.unravel_index(self.places[found], self.shape)
        wide = [dim for dim, indices in enumerate(along) if len(np.unique(indices)) > 1]
        return wide[0] if len(wide) == 1 else None


@dataclass(frozen=True)
class HeadDims:
    """Dimensions of a view's result.

    Attributes:
        heads: The one along which heads lie.
        places: The one along which the places within every head lie; None where that is not known.
    """

    heads: int
    places: int | None


class HeadViews:
    """The views of one labelled pass that lay channels out along several dimensions, and the tensors made of their results.

    Args:
        known: By number of the view, the dimensions along which its heads lie, as earlier passes have found.

    Attributes:
        known: The same.
        found: The same, as this pass has found.
    """

    def __init__(self, known: Mapping[int, HeadDims]) -> None:
        self.known = known
        self.restart()

    def restart(self) -> None:
        """Forget what the pass has found: it is run again."""
        self.found: dict[int, HeadDims] = {}
        self._number = 0
        self._grids: list[_Grid] = []
        self._laid: Any = WeakTensorKeyDictionary()

    def count(self, before: Tensor) -> None:
        """Count a view of ``before``; without channels too, since in a later pass it may have some, but not of labels."""
        self._number += before.is_floating_point()

    def lay(self, output: Tensor, before: Tensor, labels: Callable[[], Tensor]) -> HeadDims | None:
        """Note the result of the view counted last; return the dimensions along which heads lie, None where none is known.

        Args:
            output: Result of the view.
            before: The tensor that is viewed.
            labels: Gives the labels of ``before``.
        """
        if not before.is_floating_point():
            return None
        laid = self._laid.get(before) if self._laid else None
        small = compact((labels() if laid is None else laid).reshape(output.shape))
        if sum(size > 1 for size in small.shape) > 1:
            self._laid[output] = small.expand(output.shape)
            atoms, places = np.unique(small.reshape(-1).numpy(), return_index=True)
            self._grids.append(_Grid(self._number, tuple(small.shape), atoms, places))
        return self.known.get(self._number)

    def move(self, tensors: Iterable[Tensor], move: Callable[[Callable[[Tensor], Tensor | None]], Any], output: Any) -> None:
        """Follow an operator that moves elements: ``move`` runs it on labels, given a tensor's, None for one without any."""
        if not self._laid or not any(tensor in self._laid for tensor in tensors):
            return
        moved = move(self._laid.get)
        pairs = [(output, moved)] if isinstance(output, Tensor) else zip(output, moved, strict=True)
        for tensor, labels in pairs:
            self._laid[tensor] = labels

    def follow(self, tensors: Iterable[Tensor], output: Any) -> None:
        """Follow any other operator: a result of the shape of its argument is taken to have its elements at the same places."""
        if self._laid and isinstance(output, Tensor) and output not in self._laid:
            laid = (self._laid[tensor] for tensor in tensors if tensor in self._laid)
            same = next((labels for labels in laid if labels.shape == output.shape), None)
            if same is not None:
                self._laid[output] = same

    def attend(self, tensor: Tensor) -> None:
        """Note that attention is run on ``tensor`` by itself for every place along its dimensions but the last two."""
        laid = self._laid.get(tensor) if self._laid else None
        if laid is None:
            return
        small = compact(laid)
        wide = [dim for dim, size in enumerate(small.shape[:-2]) if size > 1]
        if len(wide) != 1:
            return
        inner = [dim for dim in range(small.dim() - 2, small.dim()) if small.shape[dim] > 1]
        line, places = _line(small, wide[0]), _line(small, inner[0]) if len(inner) == 1 else None
        for grid in self._grids if len(line) > 1 else ():
            heads = grid.dim_of(line)
            if heads is not None:
                self.found[grid.number] = HeadDims(heads, None if places is None else grid.dim_of(places))

    def written(self, tensor: Tensor) -> Tensor | None:
        """Return the atoms of the channels that views have laid out in ``tensor``, int64 of any shape; None for none."""
        laid = self._laid.get(tensor) if self._laid else None
        return None if laid is None else torch.unique(compact(laid))


def _line(labels: Tensor, dim: int) -> np.ndarray:
    """Return the different labels along a dimension, at the first place of all others."""
    for other in range(labels.dim()):
        if other != dim:
            labels = labels.narrow(other, 0, 1)
    return np.unique(labels.reshape(-1).numpy())
