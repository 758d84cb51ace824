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
    """

    parameter: Tensor
    places: tuple[Tensor, ...]

    def dim_at(self, dim: int) -> int | None:
        """Return the dimension of the parameter that lies whole and in order along ``dim``; None if there is none."""
        for own, places in enumerate(self.places):
            line = vector(places, dim)
            if line is not None and torch.equal(line, torch.arange(self.parameter.shape[own])):
                return own
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

    def follow(self, view: StoredView, moved: Any, output: Any) -> None:
        """Note that an operator has made ``output`` of a view.

        Args:
            view: The view.
            moved: From places of the view's shape to those of ``output``, a tensor.
            output: Result of the operator.
        """
        if isinstance(output, Tensor):
            self._views[output] = StoredView(view.parameter, tuple(map(moved, view.places)))
