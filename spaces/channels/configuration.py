"""Configurations of networks: the numbers by which a network of transformers is built, set with every cut.

Which numbers of its configuration a group of channels follows is found by building the network, without memory, with each of
them doubled: the tensors that are larger then follow that number. What one number says of several groups, such as the width of
the stream and that of all heads, is one decision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from spaces.channels.check import freeze
from spaces.channels.groups import ChannelGroups, Group
from spaces.channels.surgery import plan_cut
from spaces.channels.tied_blocks import tied
from spaces.channels.units import CHANNELS, WIDTHS
from spaces.errors import UnsupportedModelError
from spaces.execution.randomness import kept_randomness

ATTRIBUTE = "config"
"""Attribute by which networks of transformers hold their configuration."""

_OF_HEADS = "head"
_WIDTHS = ("dim", "size")
"""Parts of the names of numbers that count heads, and of those that are the width of one."""

_Shapes = dict[str, tuple[int, ...]]


def configured(model: nn.Module, groups: ChannelGroups, heads_multiple: int = 1) -> ChannelGroups:
    """Return the groups tied as far as a configuration has one number for several, with these numbers set by every cut.

    A network that is not built of a configuration alone, the attribute ``config``, keeps its groups.

    Args:
        model: The network; left unchanged.
        groups: Its groups.
        heads_multiple: Number that as many heads as are kept are a multiple of, where not all are.

    Raises:
        UnsupportedModelError: No configuration describes the network without some channels.
    """
    config = vars(model).get(ATTRIBUTE)
    if config is None or not type(config).__dictoffset__:
        return groups
    widths = "a configuration of transformers describes no heads whose width is cut"
    groups = freeze(groups, {group.name: widths for group in groups.groups if group.unit in WIDTHS})
    with kept_randomness():
        base = _shapes(model, {})
        if base is None:
            return groups
        followed = {name: found for name in _numbers(config) if (found := _followed(model, base, name))}
        made = _numbered(tied(groups, _together(groups, followed)), config, followed)
        made = _divisible(model, made, config, followed, heads_multiple)
        for group in made.groups:
            _check(model, made, group, base)
    return made


def _numbered(groups: ChannelGroups, config: Any, followed: Mapping[str, set[tuple[str, int]]]) -> ChannelGroups:
    """Return the groups with the numbers of the configuration that count their channels."""
    own = {name: places for name, places in groups.sizes.get("", {}).items() if not name.startswith(f"{ATTRIBUTE}.")}
    return replace(groups, sizes={**groups.sizes, "": {**own, **_sizes(groups, config, followed)}})


def _divisible(
    model: nn.Module, groups: ChannelGroups, config: Any, followed: Mapping[str, set[tuple[str, int]]], heads_multiple: int
) -> ChannelGroups:
    """Return the groups with widths that every number of heads divides, where a configuration refuses others.

    A width too small for that is tied to the heads.
    """
    heads = [group for group in groups.groups if group.unit != CHANNELS]
    for width in (group for group in groups.groups if group.unit == CHANNELS and group.size > 1):
        if not heads or _shapes(model, _numbers_of(groups, width, width.size - 1)) is not None:
            continue
        largest = max(
            (
                places
                for places in groups.sizes[""].values()
                if np.isin(places, heads[0].offset + np.arange(heads[0].size)).all()
            ),
            key=len,
        )
        per_unit, step = len(largest) // heads[0].size, heads[0].multiple(1, heads_multiple)
        counts = [per_unit * kept for kept in range(1, heads[0].size + 1) if kept % step == 0 or kept == heads[0].size]
        common = math.lcm(*counts)
        if common <= width.size // 2:
            kept = [replace(group, step=common) if group.name == width.name else group for group in groups.groups]
            return replace(groups, groups=tuple(kept))
        alone = [[group.name] for group in groups.groups if group.name not in (width.name, heads[0].name)]
        return _numbered(tied(groups, [*alone, [width.name, heads[0].name]]), config, followed)
    return groups


def _numbers_of(groups: ChannelGroups, group: Group, kept: int) -> dict[str, int]:
    """Return the numbers of the configuration of the network that keeps so many of the channels of a group, and all others."""
    mask = np.ones(groups.width, dtype=bool)
    mask[group.offset + kept : group.offset + group.size] = False
    cut = plan_cut(groups, mask)
    prefix = f"{ATTRIBUTE}."
    found = cut.attributes.get("", {})
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix) and type(value) is int}


def _numbers(config: Any) -> Iterator[str]:
    """Yield the names of the whole numbers that a configuration has."""
    for name, value in vars(config).items():
        if type(value) is int and value > 1 and not name.startswith("_") and "token" not in name:
            yield name


def _shapes(model: nn.Module, changed: Mapping[str, int]) -> _Shapes | None:
    """Return the shapes of a network of the class and the configuration of ``model``, with other numbers; None if it fails."""
    config = copy.deepcopy(vars(model)[ATTRIBUTE])
    try:
        for name, value in changed.items():
            setattr(config, name, value)
        getattr(config, "validate", lambda: None)()
        with torch.device("meta"):
            made = type(model)(config)
    except Exception:  # A configuration may refuse numbers in any way.
        return None
    return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}


def _followed(model: nn.Module, base: _Shapes, number: str) -> set[tuple[str, int]]:
    """Return the dimensions of tensors that are larger where a number of the configuration is twice as large."""
    made = _shapes(model, {number: 2 * getattr(vars(model)[ATTRIBUTE], number)})
    if made is None or made.keys() != base.keys():
        return set()
    return {
        (name, dim)
        for name, shape in base.items()
        for dim, size in enumerate(shape)
        if len(made[name]) == len(shape) and made[name][dim] != size
    }


def _together(groups: ChannelGroups, followed: Mapping[str, set[tuple[str, int]]]) -> list[list[str]]:
    """Return the names of the open groups by the numbers that they follow, those with a number in common together."""
    sets = [{group.name} for group in groups.groups]
    for dims in followed.values():
        shared = {group.name for group in groups.groups if _dims(groups, group) & dims}
        joined = [one for one in sets if one & shared]
        if len(joined) > 1:
            sets = [one for one in sets if not one & shared] + [set().union(*joined)]
    return [sorted(one) for one in sets]


def _dims(groups: ChannelGroups, group: Group) -> set[tuple[str, int]]:
    """Return the dimensions of tensors that lose channels of a group."""
    end = group.offset + group.size
    return {
        (tensor, dim)
        for tensor, dims in groups.ties.items()
        for dim, places in dims.items()
        if ((places >= group.offset) & (places < end)).any()
    }


def _sizes(groups: ChannelGroups, config: Any, followed: Mapping[str, set[tuple[str, int]]]) -> dict[str, np.ndarray]:
    """Return the places of the channels that every number of the configuration counts, by the attribute."""
    found = {}
    for group in groups.groups:
        own = _dims(groups, group)
        names = [name for name, dims in followed.items() if dims & own]
        if group.unit != CHANNELS:
            counting = [name for name in _numbers(config) if _OF_HEADS in name and not any(word in name for word in _WIDTHS)]
            widths = [name for name in names if _OF_HEADS not in name]
            names = [*counting, *widths]
        for name in names:
            value = getattr(config, name)
            if value % group.size == 0:
                places = np.arange(group.offset, group.offset + group.size)
                found[f"{ATTRIBUTE}.{name}"] = places.repeat(value // group.size)
    return found


def _check(model: nn.Module, groups: ChannelGroups, group: Group, base: _Shapes) -> None:
    """Raise unless the configuration of the network without about half of a group describes it."""
    kept = max(group.size // 2 // group.step, 1) * group.step
    mask = np.ones(groups.width, dtype=bool)
    mask[group.offset + kept : group.offset + group.size] = False
    cut = plan_cut(groups, mask)
    made = _shapes(model, _numbers_of(groups, group, kept))
    expected = {
        name: tuple(len(cut.kept.get(name, {}).get(dim, range(size))) for dim, size in enumerate(shape))
        for name, shape in base.items()
    }
    if made != expected:
        wrong = sorted(name for name in expected if made is None or made.get(name) != expected[name])
        raise UnsupportedModelError(
            f"tie: no configuration of {type(model).__name__} describes it with fewer {group.unit} of {group.name!r}: "
            f"{', '.join(wrong[:3])} would be of another shape; exclude them, or use tie: none"
        )
