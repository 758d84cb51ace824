"""Channel labels: one integer per tensor element, naming the channel it belongs to.

Two kinds of label exist: 0 for "no channel", and positive atoms. Two atoms that must be kept or removed together
are united in a disjoint-set forest; an atom that cannot be removed at all is frozen, with a reason.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ChannelAtoms:
    """A disjoint-set forest over channel atoms, with a freezing reason per set."""

    def __init__(self) -> None:
        self._parent: list[int] = [0]
        self._reason: dict[int, str] = {0: "no channel"}

    def new(self, count: int) -> Tensor:
        """Return ``count`` fresh atoms, int64 of shape ``(count,)``."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def find(self, atom: int) -> int:
        """Return the representative of the set that ``atom`` belongs to."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Unite atoms pairwise; both of the same shape. A pair with label 0 is left alone."""
        pairs = torch.stack([first.reshape(-1), second.reshape(-1)], 1)
        for one, other in torch.unique(pairs, dim=0).tolist():
            if one and other:
                self._unite(one, other)

    def _unite(self, one: int, other: int) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        if low != high:
            self._parent[high] = low
            if high in self._reason:
                self._reason.setdefault(low, self._reason.pop(high))

    def freeze(self, atoms: Tensor, reason: str) -> None:
        """Freeze every atom in ``atoms``; the first reason stays."""
        for atom in torch.unique(atoms).tolist():
            if atom:
                self._reason.setdefault(self.find(atom), reason)

    def reason(self, atom: int) -> str | None:
        """Return why the atom is frozen, or None where it is open."""
        return self._reason.get(self.find(atom))

    def roots(self, atoms: Tensor) -> np.ndarray:
        """Return the representative of every atom, as an array of the same shape."""
        flat = [self.find(atom) for atom in atoms.reshape(-1).tolist()]
        return np.asarray(flat, dtype=np.int64).reshape(tuple(atoms.shape))


def along(vector: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Return labels of ``shape`` that vary along ``dim`` only, as ``vector`` says; takes no memory."""
    view = [1] * len(shape)
    view[dim] = len(vector)
    return vector.reshape(view).expand(shape)


def compact(labels: Tensor) -> Tensor:
    """Return labels with every dimension of constant labels reduced to size 1."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1:
            head = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == head).all()):
                labels = head
    return labels


def varying(labels: Tensor) -> list[int]:
    """Return the dimensions along which labels change."""
    return [dim for dim, size in enumerate(compact(labels).shape) if size > 1]


def vector(labels: Tensor, dim: int) -> Tensor | None:
    """Return the labels along ``dim``, of shape ``(size,)``, or None where they change along another dimension too."""
    small = compact(labels)
    dim %= labels.dim()
    if any(size > 1 for other, size in enumerate(small.shape) if other != dim):
        return None
    return small.reshape(-1).expand(labels.shape[dim]).contiguous()
