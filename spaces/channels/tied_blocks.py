"""Tied blocks: the same unit of all blocks of a chain as one decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from spaces.channels.check import moved
from spaces.channels.groups import ChannelGroups, Group
from spaces.channels.units import CHANNELS
from spaces.errors import UnsupportedModelError


def tied_blocks(model: nn.Module, groups: ChannelGroups) -> ChannelGroups:
    """Return the groups with those tied whose names, kinds and sizes differ in the place of a block in its chain alone.

    A chain is a ``ModuleList`` or ``Sequential`` whose elements are all of one class.
    """
    chains = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and len(set(map(type, module))) == 1
    }
    alike: dict[tuple[str, int, str], list[str]] = {}
    for group in groups.groups:
        parts = group.name.split(".")
        spoken = ["*" if ".".join(parts[:place]) in chains else part for place, part in enumerate(parts)]
        alike.setdefault((".".join(spoken), group.size, group.unit), []).append(group.name)
    return tied(groups, list(alike.values()))


def tied(groups: ChannelGroups, together: Sequence[Sequence[str]]) -> ChannelGroups:
    """Return the groups with some made one: it has as many coupled channels as the smallest of them.

    A larger one leaves in runs of neighbours, as many of its channels for each.

    Args:
        groups: The groups.
        together: Names of open groups that become one, all open groups once.

    Raises:
        UnsupportedModelError: The size of a group is no multiple of that of the smallest.
    """
    named = {group.name: group for group in groups.groups}
    order = {name: place for place, name in enumerate(named)}
    position = np.full(groups.width, -1, dtype=np.int64)
    kept: list[Group] = []
    width = 0
    for names in sorted(together, key=lambda names: min(map(order.__getitem__, names))):
        parts = [named[name] for name in sorted(names, key=order.__getitem__)]
        size = min(part.size for part in parts)
        for part in parts:
            if part.size % size:
                raise UnsupportedModelError(
                    f"tie: the {part.size} {part.unit} of {part.name!r} can't be tied to the {size} of a group that a "
                    "configuration has the same number for: expected a multiple of them; exclude one, or use tie: none"
                )
            position[part.offset : part.offset + part.size] = width + np.arange(part.size) // (part.size // size)
        first, members = parts[0], dict.fromkeys(name for part in parts for name in part.members)
        share = min(1.0, sum(part.macs_share for part in parts))
        unit = next((part.unit for part in parts if part.unit != CHANNELS), CHANNELS)
        kept.append(replace(first, size=size, members=tuple(members), macs_share=share, offset=width, unit=unit))
        width += size
    return moved(groups, position, kept, ())
