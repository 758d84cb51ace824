"""Pairs of units: channels that stay as long as two units do, such as row ``i`` of head ``h``: the head, and place ``i``.

A pair has an atom of its own, so that tensors are labelled, tied and cut as ever. What can't be told apart place by place is
decided at the end (:meth:`Pairs.settle`): where the places of the second units can't go, a pair is its first unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spaces.channels.labels.atoms import ChannelAtoms, components


@dataclass(frozen=True)
class Grid:
    """Pairs of every one of some units with every one of others; all of them atoms, int64.

    Attributes:
        atoms: The pairs, of shape ``(first, second)``.
        first: The first units, such as heads, of shape ``(first,)``.
        second: The second units, such as the places within every head, of shape ``(second,)``.
    """

    atoms: np.ndarray
    first: np.ndarray
    second: np.ndarray


class Pairs:
    """The pairs of one labelled pass.

    Args:
        atoms: The atoms of the pass.

    Attributes:
        grids: The pairs, grid by grid.
    """

    def __init__(self, atoms: ChannelAtoms) -> None:
        self.grids: list[Grid] = []
        self._atoms = atoms
        self._of: dict[int, tuple[int, int]] = {}

    def part(self, grids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the first and second units of channels in rows and columns, fresh ones where they are no pairs yet.

        None where they can't be pairs: a channel is nothing, or is there twice, or a pair of others.

        Args:
            grids: Atoms, int64 of shape ``(grids, first, second)``; the grids have the same units.
        """
        known = [self._of.get(atom) for atom in grids.reshape(-1).tolist()]
        if all(pair is not None for pair in known):
            pairs = torch.tensor(known).reshape(*grids.shape, 2)
            first, second = pairs[0, :, 0, 0], pairs[0, 0, :, 1]
            even = (pairs[..., 0] == first[:, None]).all() and (pairs[..., 1] == second).all()
            return (first, second) if even else None
        if any(pair is not None for pair in known) or bool((grids == 0).any()) or len(torch.unique(grids)) < grids.numel():
            return None
        first, second = self._atoms.new(grids.shape[1]), self._atoms.new(grids.shape[2])
        for grid in grids:
            self._add(grid, first, second)
        return first, second

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Return an atom for every pair of units, element by element, int64 of the shape of both; 0 where both are."""
        found = torch.where(first == 0, second, first)
        both = (first != 0) & (second != 0)
        rows, columns = torch.unique(first[both]), torch.unique(second[both])
        grid = self._atoms.new(len(rows) * len(columns)).reshape(len(rows), len(columns))
        self._add(grid, rows, columns)
        found[both] = grid[torch.searchsorted(rows, first[both]), torch.searchsorted(columns, second[both])]
        return found

    def lines(self, atoms: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return first and second units of pairs that lie along a dimension row by row; None where others do."""
        known = [self._of.get(atom) for atom in atoms.tolist()]
        if not known or any(pair is None for pair in known):
            return None
        rows = list(dict.fromkeys(pair[0] for pair in known if pair is not None))
        if len(atoms) % len(rows):
            return None
        return self.part(atoms.reshape(1, len(rows), -1))

    def _add(self, grid: Tensor, first: Tensor, second: Tensor) -> None:
        self.grids.append(Grid(grid.numpy().copy(), first.numpy().copy(), second.numpy().copy()))
        for row, one in zip(grid.tolist(), first.tolist(), strict=True):
            self._of.update(zip(row, ((one, other) for other in second.tolist()), strict=True))

    @property
    def table(self) -> np.ndarray:
        """Pair, first and second unit of all pairs, int64 of shape ``(pairs, 3)``."""
        rows = [
            np.stack(np.broadcast_arrays(one.atoms, one.first[:, None], one.second), -1).reshape(-1, 3) for one in self.grids
        ]
        return np.concatenate([np.zeros((0, 3), np.int64), *rows])

    def settle(self) -> None:
        """Unite and freeze until every pair is one of two units that may go by themselves, or one of them.

        A pair that is frozen freezes both units. Second units that are frozen leave the pair to the first, and the reverse.
        Pairs that are united have their units united, unless units of one grid would be.
        """
        while len(self.grids) and self._settle():
            pass

    def _settle(self) -> bool:
        """Take a step of :meth:`settle`; return False where nothing is left to do."""
        atoms = self._atoms
        roots, reasons = atoms.roots(torch.arange(len(atoms))), atoms.reasons
        table = self.table
        table = table[(roots[table[:, 0]] != roots[table[:, 1]]) & (roots[table[:, 0]] != roots[table[:, 2]])]
        pair, first, second = roots[table].T
        stays = np.zeros(len(roots), dtype=bool)
        stays[np.fromiter(reasons, np.int64, len(reasons))] = True
        if (gone := stays[pair] & ~(stays[first] & stays[second])).any():
            for root in np.unique(pair[gone]).tolist():
                atoms.freeze(torch.from_numpy(table[pair == root, 1:].copy()), reasons[root])
            return True
        if (alone := stays[second] | stays[first]).any():
            left = np.where(stays[second], table[:, 1], table[:, 2])[alone]
            atoms.unite(torch.from_numpy(table[alone, 0].copy()), torch.from_numpy(left))
            return True
        leader = np.full(len(roots), -1)
        leader[pair[::-1]] = np.arange(len(pair))[::-1]
        edges = np.concatenate([np.stack([one, one[leader[pair]]]) for one in (first, second)], axis=1)
        edges = edges[:, edges[0] != edges[1]]
        if not edges.size:
            return False
        after = components(len(roots), edges)
        doubled = np.concatenate(
            [_doubled(after[roots[line]], roots[line]) for grid in self.grids for line in (grid.first, grid.second)]
        )
        if (crossed := np.isin(after[first], doubled) | np.isin(after[second], doubled)).any():
            tied = crossed & ((first != first[leader[pair]]) | (second != second[leader[pair]]))
            self._freeze(table[tied, 2], "the places within heads are tied across heads")
            return True
        atoms.unite(torch.from_numpy(edges[0].copy()), torch.from_numpy(edges[1].copy()))
        return True

    def _freeze(self, second: np.ndarray, reason: str) -> None:
        self._atoms.freeze(torch.from_numpy(second.copy()), reason)


def _doubled(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the roots that several of the roots ``before`` would have, ``after`` a union."""
    met = np.unique(np.stack([after, before]), axis=1)[0]
    return np.asarray(met[1:][met[1:] == met[:-1]])
