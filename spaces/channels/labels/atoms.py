"""Channel labels: one integer per tensor element, naming the channel it belongs to.

Two kinds of label exist: 0 for "no channel", and positive atoms. Two atoms that must be kept or removed together
are united; an atom that cannot be removed at all is frozen, with a reason.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ChannelAtoms:
    """Channel atoms, those united, and those frozen with a reason.

    Unions and reasons are only noted; the sets are found together when the first of them is asked for. The representative of
    a set is its smallest atom, its reason the earliest of its atoms.
    """

    def __init__(self) -> None:
        self._count = 1
        self._unions: list[np.ndarray] = []
        self._frozen: list[tuple[np.ndarray, str]] = []
        self._roots: np.ndarray | None = None
        self._reasons: dict[int, str] | None = None

    def __len__(self) -> int:
        """Return the number of atoms, "no channel" among them."""
        return self._count

    def new(self, count: int) -> Tensor:
        """Return ``count`` fresh atoms, int64 of shape ``(count,)``."""
        first = self._count
        self._count += count
        self._roots = self._reasons = None
        return torch.arange(first, first + count)

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Unite atoms pairwise; both of the same shape. A pair with label 0 is left alone."""
        small = [tensor.reshape(-1).numpy() for tensor in shrunk([first, second])]
        apart = (small[0] != small[1]) & (small[0] != 0) & (small[1] != 0)
        if apart.any():
            self._unions.append(np.stack([small[0][apart], small[1][apart]]))
            self._roots = self._reasons = None

    def freeze(self, atoms: Tensor, reason: str) -> None:
        """Freeze every atom in ``atoms``; the first reason stays."""
        found = np.unique(shrunk([atoms])[0].numpy())
        found = found[found != 0]
        if len(found):
            self._frozen.append((found, reason))
            self._reasons = None

    def reason(self, atom: int) -> str | None:
        """Return why the atom is frozen, or None where it is open."""
        return self.reasons.get(int(self._table[atom]))

    @property
    def reasons(self) -> dict[int, str]:
        """The reason of every frozen set, by its representative."""
        if self._reasons is None:
            self._reasons = {0: "no channel"}
            for atoms, reason in self._frozen:
                for root in np.unique(self._table[atoms]).tolist():
                    self._reasons.setdefault(root, reason)
        return self._reasons

    def roots(self, atoms: Tensor) -> np.ndarray:
        """Return the representative of every atom, int64 of the same shape."""
        return np.asarray(self._table[atoms.numpy()])

    @property
    def _table(self) -> np.ndarray:
        """The representative of every atom, int64 of shape ``(atoms,)``."""
        if self._roots is None:
            self._roots = components(self._count, np.concatenate([np.zeros((2, 0), np.int64), *self._unions], axis=1))
        return self._roots


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the smallest member of the component of each of ``count`` nodes, joined by ``pairs`` of shape ``(2, pairs)``.

    Every root takes the smallest root that it is joined to, and chains are shortened by half until none is left.
    """
    parent = np.arange(count)
    while pairs.size:
        ends = parent[pairs]
        pairs = pairs[:, ends[0] != ends[1]]
        ends = ends[:, ends[0] != ends[1]]
        np.minimum.at(parent, ends.max(0), ends.min(0))
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
    return parent


def shrunk(labels: list[Tensor]) -> list[Tensor]:
    """Return labels of one shape with size 1 along every dimension that none of them takes memory for."""
    for dim in range(labels[0].dim()):
        if all(one.stride(dim) == 0 for one in labels):
            labels = [one.narrow(dim, 0, min(1, one.shape[dim])) for one in labels]
    return labels


def along(vector: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Return labels of ``shape`` that vary along ``dim`` only, as ``vector`` says; takes no memory."""
    view = [1] * len(shape)
    view[dim] = len(vector)
    return vector.reshape(view).expand(shape)


def compact(labels: Tensor) -> Tensor:
    """Return labels with every dimension of constant labels reduced to size 1."""
    [labels] = shrunk([labels])
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1:
            head = labels.narrow(dim, 0, 1)
            if bool((labels == head).all()):
                labels = head
    return labels


def varying(labels: Tensor) -> list[int]:
    """Return the dimensions along which labels change."""
    return [dim for dim, size in enumerate(compact(labels).shape) if size > 1]


def vector(labels: Tensor, dim: int) -> Tensor | None:
    """Return the labels along ``dim``, of shape ``(size,)``, or None where they change along another dimension too."""
    small = compact(labels)
    dim %= labels.dim()
    if not labels.numel() or any(size > 1 for other, size in enumerate(small.shape) if other != dim):
        return None
    return small.reshape(-1).expand(labels.shape[dim]).contiguous()
