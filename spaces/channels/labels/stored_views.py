"""Stored views: the dimensions of a parameter in what code makes of it by moving its elements, such as its transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from spaces.channels.labels.atoms import along, vector

_DIMS = range(2, 6)
"""Numbers of dimensions of the parameters that are followed."""


@dataclass(frozen=True)
class StoredView:
    """A tensor whose elements are those of a parameter, at other places.

    Attributes:
        parameter: The parameter.
        places: By dimension of it, the place along this dimension of every element, int64 of the tensor's shape.
        fixed: True where code has picked the elements by the numbers of their places.
    """

    parameter: Tensor
    places: tuple[Tensor, ...]
    fixed: bool = False

    def dim_at(self, dim: int) -> int | None:
        """Return the dimension of the parameter that lies whole and in order along ``dim``; None if there is none."""
        for own, places in enumerate(self.places):
            line = vector(places, dim)
            if line is not None and torch.equal(line, torch.arange(self.parameter.shape[own])):
                return own
        return None

    def part_at(self, dim: int) -> tuple[int, Tensor] | None:
        """Return the dimension of the parameter of which places lie along ``dim``, and these places; None if there is none.

        They lie next to each other and in order, such as the rows of one projection among those of three.
        """
        if self.fixed:
            whole = self.dim_at(dim)
            return None if whole is None else (whole, torch.arange(self.parameter.shape[whole]))
        for own, places in enumerate(self.places):
            line = vector(places, dim)
            if line is not None and (len(line) > 1 or self.parameter.shape[own] == 1) and bool((line.diff() == 1).all()):
                return own, line
        return None

    def is_whole(self, tensor: Tensor) -> bool:
        """Return True if ``tensor``, whose view this is, has every element of the parameter at its own place."""
        return tensor.shape == self.parameter.shape and all(self.dim_at(dim) == dim for dim in range(tensor.dim()))


class StoredViews:
    """The views of the parameters of a network, met in one labelled pass."""

    def __init__(self) -> None:
        self._views: Any = WeakTensorKeyDictionary()

    def find(self, tensor: Tensor, stored: bool) -> StoredView | None:
        """Return ``tensor`` as a view; None for one that is neither ``stored``, a parameter itself, nor made of one."""
        if not stored:
            found: StoredView | None = self._views.get(tensor)
            return found
        if tensor.dim() not in _DIMS:
            return None
        places = (along(torch.arange(size), dim, tensor.shape) for dim, size in enumerate(tensor.shape))
        return StoredView(tensor, tuple(places))

    def follow(self, view: StoredView, moved: Any, output: Any, fixed: bool = False) -> None:
        """Note that an operator has made ``output`` of a view.

        Args:
            view: The view.
            moved: From places of the view's shape to those of ``output``, a tensor.
            output: Result of the operator.
            fixed: True where the operator picks elements by the numbers of their places.
        """
        if isinstance(output, Tensor):
            self._views[output] = StoredView(view.parameter, tuple(map(moved, view.places)), view.fixed or fixed)
