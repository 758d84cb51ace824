"""Frozen parts: what of a network a space leaves as it is, with the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Frozen:
    """A part of a network that no candidate changes.

    Attributes:
        name: Module name, or what the part is called.
        size: Number of coupled channels, or of weights.
        reason: Why the part is frozen.
        macs_share: Share of the network's MACs in layers of the part.
        members: Names of the modules that belong to it, where there are several.
    """

    name: str
    size: int
    reason: str
    macs_share: float
    members: tuple[str, ...] = ()
