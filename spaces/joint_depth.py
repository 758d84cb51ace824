"""Depth among the decisions of a joint space: the names of its decisions, and what a choice of branches leaves of the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from spaces.candidate import Candidate
from spaces.channels.groups import ChannelGroups
from spaces.depth import Depth
from spaces.domains import Choice
from spaces.frozen import Frozen
from spaces.joint_cost import JointCost, Left
from spaces.residual.units import Removal, Unit


class JointDepth:
    """The branches or blocks of a joint space.

    Args:
        space: The space of depth.
        groups: The channel groups.
        cost: Tells what modules leave of the costs.
        taken: Names of the other decisions.
    """

    def __init__(self, space: Depth, groups: ChannelGroups, cost: JointCost, taken: Collection[str]) -> None:
        """Name the decisions: a channel group or a layer may have the name of a branch."""
        self.space, self._groups, self._cost = space, groups, cost
        named = {unit.name: f"{unit.name}.{space.settings.unit}" for unit in space.units}
        self._names = {unit: name if name not in taken else f"{name}#2" for unit, name in named.items()}
        # Outputs that are other channels than those that are read may be as many as these by chance alone.
        self._made = [one for one in groups.layers if one.channel_dim and not np.array_equal(one.inputs, one.outputs)]
        self._left: dict[frozenset[str], Left] = {}

    @property
    def domains(self) -> Mapping[str, Choice]:
        """0 and 1 for every branch or block, in graph order."""
        return {self._names[name]: domain for name, domain in self.space.domains.items()}

    @property
    def removable(self) -> Sequence[Frozen]:
        """The branches or blocks, by the names of their decisions."""
        return [replace(part, name=self._names[part.name]) for part in self.space.removable]

    def gains(self) -> Mapping[str, np.ndarray]:
        """Return what the two levels of every branch or block are worth."""
        return {self._names[name]: values for name, values in self.space.gains().items()}

    def named(self, own: Candidate) -> Candidate:
        """Return a candidate of the space of depth in the names of the joint space."""
        return Candidate({self._names[name]: int(own.number(name)) for name in own.values})

    def own(self, candidate: Candidate) -> Candidate:
        """Return the part of a candidate that the space of depth decides, in its names."""
        return Candidate({unit.name: int(candidate.number(self._names[unit.name])) for unit in self.space.units})

    def gone(self, candidate: Candidate) -> list[Unit]:
        """Return the units that a candidate removes, in graph order."""
        return self.space.gone(self.own(candidate))

    def left(self, candidate: Candidate) -> Left | None:
        """Return what is left without the units that a candidate removes; None where all stay."""
        own = self.own(candidate)
        gone = frozenset(unit.name for unit in self.space.gone(own))
        if gone and gone not in self._left:
            self._left[gone] = self._cost.left(self.space.removal(own).holds, self.space.products_beside(own))
        return self._left.get(gone)

    def mask(self, candidate: Candidate, mask: np.ndarray) -> np.ndarray:
        """Return a keep-mask of all groups without cuts in those that are gone, whose modules leave as they are."""
        left, found = self.left(candidate), mask.copy()
        for group in self._groups.groups if left is not None else ():
            if left is not None and not left.groups[group.name]:
                found[group.offset : group.offset + group.size] = True
        return found

    def removal(self, candidate: Candidate, mask: np.ndarray) -> Removal:
        """Return the modules that leave the network of a keep-mask, with stubs of its widths."""
        kept = self._groups.extended(mask)
        widths = {one.name: (one.channel_dim, int(kept[one.outputs].sum())) for one in self._made}
        return self.space.removal(self.own(candidate)).resized(widths)
