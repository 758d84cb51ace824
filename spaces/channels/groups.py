"""Coupled channel groups: the channels of a network that are removed together. Found once per model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.candidate import Candidate
from spaces.channels.labelled_pass import trace_channels
from spaces.channels.labels.atoms import compact
from spaces.channels.labels.masked_calls import MaskedCall
from spaces.channels.labels.trace import WHOLE, ChannelTrace, LayerTrace
from spaces.channels.units import CHANNELS, HEADS, KV_GROUPS, QK_WIDTH, WIDTHS, UnitName
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.batch import Nested, describe
from spaces.execution.forward import Forward, call
from spaces.layers.layer_kind import LayerKind
from spaces.layers.split_attention import split_form
from spaces.patterns import NOT_INCLUDED, first_match, reason_left_out, require_matches

ALWAYS = np.asarray([-1])
"""Places of what no mask changes."""


@dataclass(frozen=True)
class Group:
    """Channels that are decided alike: each *coupled channel* of a group is one bit of the keep-mask.

    Attributes:
        name: Name of the first layer that produces the channels.
        size: Number of coupled channels.
        members: Names of the modules whose weights shrink with them.
        macs_share: Share of the network's MACs in layers that read or write these channels.
        reason: Why the group is frozen; empty for an open one.
        offset: Position of its first channel in the network's whole mask; -1 for a frozen one.
        unit: Kind of what a coupled channel stands for: a channel, or all that leaves with an attention head.
        step: Number that as many coupled channels as are kept are a multiple of, by what the network is made for.
    """

    name: str
    size: int
    members: tuple[str, ...]
    macs_share: float
    reason: str = ""
    offset: int = -1
    unit: UnitName = CHANNELS
    step: int = 1

    def multiple(self, round_to: int, heads_multiple: int = 1, width_multiple: int = 1) -> int:
        """Return the number that as many coupled channels as are kept are a multiple of: ``round_to`` is for channels."""
        of_kind = {CHANNELS: round_to, **dict.fromkeys(WIDTHS, width_multiple)}
        return math.lcm(self.step, of_kind.get(self.unit, heads_multiple))


@dataclass(frozen=True)
class Layer:
    """A layer with weights, its channels given as positions in the whole mask (-1: always kept).

    Attributes:
        name: Module name.
        kind: Kind of the layer.
        inputs: Mask position of every input channel, of shape ``(in,)``.
        outputs: Mask position of every output channel, of shape ``(out,)``.
        macs: Multiply-accumulates per pair of input and output channel (per output channel where ``groups > 1``), and per
            channel of ``passing``.
        groups: Number of convolution or normalization groups.
        channel_dim: Dimension of the module's input that holds the channels, counted from the end; 0 where none does.
        passing: Mask position of the channels that pass through the layer, each alike; a single -1 for none.
        runner: Name of the module whose code computes the layer with the layer's weight; None where the layer itself does.
    """

    name: str
    kind: LayerKind
    inputs: np.ndarray
    outputs: np.ndarray
    macs: float
    groups: int
    channel_dim: int
    passing: np.ndarray = field(default_factory=lambda: ALWAYS)
    runner: str | None = None

    @property
    def total_macs(self) -> float:
        """Multiply-accumulates for one sample with every channel kept."""
        return self.macs * len(self.outputs) * (len(self.inputs) if self.groups == 1 else 1) * len(self.passing)


@dataclass(frozen=True)
class LiveActivation:
    """A storage of activations, and how its size follows the mask.

    Attributes:
        bytes: Bytes for every one of ``places``, and of ``beside``, that is kept.
        places: Mask positions of its channels (-1: always kept); a single -1 for one without channels that may go.
        born: Number of the operator that makes it.
        died: Number of the last operator before it is freed; None where it lives to the end.
        beside: Mask positions of the units that it has beside its channels, as ``places``.
    """

    bytes: float
    places: np.ndarray
    born: int
    died: int | None
    beside: np.ndarray = field(default_factory=lambda: ALWAYS)


@dataclass(frozen=True)
class ScoreScale:
    """Rows that write queries, which are multiplied as fewer places are kept that scores of attention are summed over.

    Code divides the scores by the square root of the number of places; that of the dense network is kept by a factor.

    Attributes:
        tensor: State tensor.
        dim: Dimension of its rows.
        rows: Indices along it, int64 of shape ``(rows,)``.
        places: Mask positions of the places, as in ties.
    """

    tensor: str
    dim: int
    rows: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class ChannelGroups:
    """The open and frozen channel groups of one network, and where in its tensors they lie.

    A position in the mask from ``width`` on is one of a pair of positions, ``pairs[position - width]``: it is kept if both are.

    Attributes:
        groups: The open groups, in graph order.
        frozen: The frozen ones, each with its reason.
        ties: By state tensor and dimension, the mask position of every index (-1: always kept).
        layers: Layers with weights in the order of their first use.
        fixed_macs: Multiply-accumulates that no mask changes, by module: products of attention, weights that can't be followed.
        sizes: By module and attribute, the mask position of every channel that the attribute counts.
        activations: Storages of activations in the forward pass of a single sample, the input among them.
        masked: Calls of functions in which removed channels must have no effect.
        remarks: What can't be vouched for: code of the network that the example did not run.
        pairs: Positions of which both must be kept, int64 of shape ``(pairs, 2)``.
        scales: Rows of weights that are multiplied with the cut.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Group, ...]
    ties: Mapping[str, Mapping[int, np.ndarray]]
    layers: tuple[Layer, ...]
    fixed_macs: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    activations: tuple[LiveActivation, ...] = ()
    masked: tuple[MaskedCall, ...] = ()
    remarks: tuple[str, ...] = ()
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    scales: tuple[ScoreScale, ...] = ()

    def extended(self, mask: np.ndarray) -> np.ndarray:
        """Return whether every position is kept: those of masks, of pairs, and, as the last one, what no mask changes.

        Masks are boolean of shape ``(..., width)``, what is returned of shape ``(..., width + pairs + 1)``.
        """
        always = np.ones((*mask.shape[:-1], 1), dtype=bool)
        return np.concatenate([mask, mask[..., self.pairs].all(-1), always], axis=-1)

    def units_of(self, places: np.ndarray) -> np.ndarray:
        """Return the positions in the mask that ``places`` stand for, one of each row, -1 for none; int64, ``(places, 2)``."""
        every = np.arange(self.width)
        table = np.concatenate([np.stack([every, np.full_like(every, -1)], 1), self.pairs, [[-1, -1]]])
        return np.asarray(table[places])

    def touched(self, group: Group, *places: np.ndarray) -> bool:
        """Return True if a unit of a group is among those that some positions stand for."""
        units = self.units_of(np.concatenate([np.zeros(0, np.int64), *places]))
        return bool(((units >= group.offset) & (units < group.offset + group.size)).any())

    @property
    def other_macs(self) -> float:
        """Multiply-accumulates that no mask changes."""
        return float(sum(self.fixed_macs.values()))

    @property
    def module_macs(self) -> dict[str, float]:
        """Multiply-accumulates of the whole network by module, for one sample."""
        found = dict(self.fixed_macs)
        for layer in self.layers:
            name = (layer.name if layer.runner is None else layer.runner) or WHOLE
            found[name] = found.get(name, 0.0) + layer.total_macs
        return {name: macs for name, macs in found.items() if macs}

    @property
    def width(self) -> int:
        """Length of the whole mask: coupled channels over all open groups."""
        return sum(group.size for group in self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all groups, frozen ones included, and of the modules whose weights shrink with them."""
        return tuple(name for group in (*self.groups, *self.frozen) for name in (group.name, *group.members))

    def mask(self, candidate: Candidate) -> np.ndarray:
        """Return the keep-mask of all groups in a row, boolean of shape ``(width,)``."""
        return np.concatenate([np.zeros(0, dtype=bool), *(candidate.mask(group.name) for group in self.groups)])

    def rows(self, candidate: Candidate) -> list[dict[str, Any]]:
        """Return the report's row of every open group: ``name``, ``channels``, and how many of them are ``kept``."""
        kept = {group.name: int(candidate.mask(group.name).sum()) for group in self.groups}
        return [{"name": group.name, "channels": group.size, "kept": kept[group.name]} for group in self.groups]

    def parts(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Return the keep-mask of every group, by name, from that of all groups, boolean of shape ``(width,)``."""
        return {group.name: mask[group.offset : group.offset + group.size] for group in self.groups}


@dataclass(frozen=True)
class TracedGroups:
    """Channel groups with the labelled pass that they were found by.

    Attributes:
        groups: The groups.
        trace: Record of the pass.
        places: By atom, its place in the network's whole mask, -1 for one of no open group; int64 of shape ``(atoms,)``.
    """

    groups: ChannelGroups
    trace: ChannelTrace
    places: np.ndarray

    def frozen(self, labels: Sequence[Tensor], reason: str) -> int:
        """Freeze the open channels among ``labels`` for ``reason``; return how many they are.

        The groups stay as they are until :meth:`renumbered`.
        """
        atoms = np.unique(np.concatenate([np.zeros(0, np.int64), *(compact(one).reshape(-1).numpy() for one in labels)]))
        opened = atoms[self.places[atoms] >= 0]
        widths = self._widths(opened)
        self.trace.atoms.freeze(torch.from_numpy(widths if len(widths) else opened), reason)
        return len(opened)

    def _widths(self, atoms: np.ndarray) -> np.ndarray:
        """Return the atoms of the open places within heads, where some of them, or of the heads, are among ``atoms``.

        Code that fixes the number of either is asked for the places first, since heads may go without them.
        """
        table, places = self.trace.pairs.table, self.places
        roots = self.trace.atoms.roots(torch.from_numpy(table))
        met = np.isin(roots, self.trace.atoms.roots(torch.from_numpy(atoms))).any(1) & (roots[:, 0] != roots[:, 1])
        found = np.unique(table[met, 2])
        return np.asarray(found[places[found] >= 0])

    def frozen_lenders(self, mask: np.ndarray, numbers: Collection[int], reason: str) -> int:
        """Freeze the groups whose number of channels code has read in place of another group's; return their channels.

        Args:
            mask: Whole keep-mask of the sliced network that the code failed in.
            numbers: Whole numbers that the code used; a group that keeps so many channels is taken for the one it read.
            reason: Reason to freeze them for.
        """
        lenders = [one for one in self.groups.groups if int(mask[one.offset : one.offset + one.size].sum()) in numbers]
        places = [np.arange(one.offset, one.offset + one.size) for one in lenders]
        atoms = np.flatnonzero(np.isin(self.places, np.concatenate([np.zeros(0, np.int64), *places])))
        return self.frozen([torch.from_numpy(atoms)], reason)

    def rescaled(self, found: Sequence[tuple[float, Sequence[Tensor]]], kept: np.ndarray) -> bool:
        """Note the scores that code divides by the square root of as many places as there are; return True if there are any.

        Args:
            found: By how much a fraction differs in a sliced network, and the labels of the tensors that it is applied to.
            kept: By atom, whether the sliced network keeps its channel, boolean of shape ``(atoms,)``.
        """
        roots, table, news = self.trace.atoms.roots, self.trace.pairs.table, False
        for scores in self.trace.scores:
            left = float(kept[scores.places.numpy()].mean()) ** 0.5
            heads = np.unique(roots(scores.heads))
            heads = np.append(heads, roots(torch.from_numpy(table[np.isin(roots(torch.from_numpy(table[:, 1])), heads), 0])))
            for ratio, labels in found:
                own = any(np.isin(roots(compact(one).reshape(-1)), heads).any() for one in labels)
                if own and not scores.follows and min(abs(ratio * left - 1.0), abs(ratio / left - 1.0)) < 1e-6 and left < 1.0:
                    scores.follows = news = True
        return news

    def renumbered(self) -> TracedGroups:
        """Return the groups of the trace as it is, after :meth:`frozen` and :meth:`rescaled`."""
        return _number(self.trace)


def paired(groups: ChannelGroups, position: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of groups with other places in the mask, and where every position of theirs is moved to.

    Args:
        groups: The groups.
        position: By place in the mask the new one, -1 for a channel that stays, int64 of shape ``(groups.width,)``.
        width: Length of the new mask.

    Returns:
        The pairs, int64 of shape ``(new pairs, 2)``; by position, of a pair too and of -1 as the last one, the new position.
    """
    pairs, moved = _paired(position[groups.pairs], width)
    return pairs, np.concatenate([position, moved, [-1]])


def _paired(units: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the different pairs among ``units``, of shape ``(n, 2)``, and the position of each, or of its open unit."""
    both = (units >= 0).all(1)
    pairs, place = np.unique(units[both], axis=0, return_inverse=True)
    moved = units.max(1, initial=-1)
    moved[both] = width + place.reshape(-1)
    return pairs, moved


def find_groups(
    model: nn.Module,
    inputs: Nested,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    forward: Forward = call,
) -> ChannelGroups:
    """Find the coupled channel groups of ``model`` by one labelled forward pass.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        include: Name patterns (``layer1.*``); where given, only groups that a matching layer produces are open.
        exclude: Name patterns of layers whose channels stay.
        forward: How ``model`` is run on ``inputs``.

    Raises:
        UnsupportedModelError: The forward pass fails, or a pattern matches no layer.
    """
    return trace_groups(split_form(model), inputs, include, exclude, forward).groups


def trace_groups(
    model: nn.Module, inputs: Nested, include: Sequence[str], exclude: Sequence[str], forward: Forward
) -> TracedGroups:
    """Find the coupled channel groups of ``model``, and keep the trace; arguments and errors of :func:`find_groups`."""
    require_matches((*include, *exclude), (name for name, _ in model.named_modules() if name))
    try:
        trace = trace_channels(model, forward, inputs)
    except SecateursError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"the network's forward pass failed on an input of {describe(inputs)}: {type(error).__name__}: {error}. "
            "Check the model's arguments (input channels, classes, image size) against the data."
        ) from error
    _freeze_by_name(trace, include, exclude)
    return _number(trace)


def _freeze_by_name(trace: ChannelTrace, include: Sequence[str], exclude: Sequence[str]) -> None:
    included: list[np.ndarray] = []
    produced: list[LayerTrace] = [layer for layer in trace.layers if layer.kind.produces]
    for layer in produced:
        if reason := reason_left_out(layer.name, (), exclude):
            trace.atoms.freeze(layer.outputs, reason)
        if include and first_match(layer.name, include) is not None:
            included.append(trace.atoms.roots(layer.outputs))
    if include:
        chosen = np.concatenate([np.zeros(0, np.int64), *included])
        for layer in produced:
            rest = np.setdiff1d(trace.atoms.roots(layer.outputs), chosen)
            trace.atoms.freeze(torch.from_numpy(rest), NOT_INCLUDED)


def _number(trace: ChannelTrace) -> TracedGroups:
    """Turn atoms into groups (atoms with the same members) and give every open one its place in the mask."""
    trace.pairs.settle()
    units = _UnitsOf(trace)
    tied = [(tie.tensor, tie.dim, trace.atoms.roots(tie.atoms)) for tie in trace.ties]
    fixed_macs = _fixed_macs(trace)
    # Channels that an attribute counts are groups of their own: one stays at least, as every position 0 has another meaning.
    counted = [(f"{size.module}.{size.attribute}", 0, trace.atoms.roots(size.atoms)) for size in trace.sizes]
    shares = _macs_shares(trace, sum(fixed_macs.values()), units)
    members = [(tensor, dim, units.of(roots)) for tensor, dim, roots in (*tied, *counted)]
    groups, frozen, position = _named(_buckets(trace, members, units), shares, _units(trace))
    frozen += _left_to_the_other(trace, shares, {group.name for group in (*groups, *frozen)})
    position, pairs = units.placed(position, sum(group.size for group in groups))
    ties: dict[str, dict[int, np.ndarray]] = {}
    for tensor, dim, roots in tied:
        if (places := position[roots]).max(initial=-1) >= 0:
            ties.setdefault(tensor, {})[dim] = places
    layers = tuple(
        Layer(
            layer.name,
            layer.kind,
            position[trace.atoms.roots(layer.inputs)],
            position[trace.atoms.roots(layer.outputs)],
            layer.macs,
            layer.groups,
            layer.channel_dim,
            position[trace.atoms.roots(layer.passing)],
            layer.runner,
        )
        for layer in trace.layers
    )
    everything = trace.atoms.roots(torch.arange(len(trace.atoms)))
    sizes: dict[str, dict[str, np.ndarray]] = {}
    for size in trace.sizes:
        sizes.setdefault(size.module, {})[size.attribute] = position[trace.atoms.roots(size.atoms)]
    live = _activations(trace, position)
    masked = tuple(call.mapped(lambda atoms: position[trace.atoms.roots(torch.from_numpy(atoms))]) for call in trace.masked)
    scales = _scales(trace, position)
    found = ChannelGroups(
        tuple(groups), tuple(frozen), ties, layers, fixed_macs, sizes, live, masked, pairs=pairs, scales=scales
    )
    return TracedGroups(found, trace, position[everything])


def _left_to_the_other(trace: ChannelTrace, shares: np.ndarray, taken: Collection[str]) -> list[Group]:
    """Return the frozen units of pairs that are left to the other one, a group for each line of them that a layer writes."""
    found: dict[tuple[int, ...], Group] = {}
    kinds, reasons, names = _units(trace), trace.atoms.reasons, set(taken)
    writers = [(layer.name or WHOLE, layer.outputs.numpy()) for layer in trace.layers if layer.kind.produces]
    for grid in trace.pairs.grids:
        pair = trace.atoms.roots(torch.from_numpy(grid.atoms))
        for line, kind in ((grid.first, HEADS), (grid.second, QK_WIDTH)):
            roots = trace.atoms.roots(torch.from_numpy(line))
            stays = all(root in reasons for root in roots.tolist()) and not np.isin(pair, roots).any()
            if not stays or tuple(roots) in found:
                continue
            writer = next((name for name, outputs in writers if grid.atoms[0, 0] in outputs), "")
            if writer:
                name = next(one for number in range(2, len(names) + 3) if (one := f"{writer}#{number}") not in names)
                names.add(name)
                share = float(shares[np.unique(np.append(pair, roots))].max())
                unit = kinds.get(int(roots[0]), kind)
                found[tuple(roots)] = Group(name, len(line), (writer,), share, reasons[int(roots[0])], unit=unit)
    return list(found.values())


class _UnitsOf:
    """The units that pairs stand for, by root, once :meth:`.Pairs.settle` has decided which are pairs."""

    def __init__(self, trace: ChannelTrace) -> None:
        roots = trace.atoms.roots(torch.from_numpy(trace.pairs.table))
        roots = roots[(roots[:, 0] != roots[:, 1]) & (roots[:, 0] != roots[:, 2])]
        self._pairs, self._units = (part for part in (roots[:, 0], roots[:, 1:]))
        self._pairs, first = np.unique(self._pairs, return_index=True)
        self._units = self._units[first]

    def of(self, roots: np.ndarray) -> np.ndarray:
        """Return roots with the first units of pairs in their place, and all second ones behind."""
        if not len(self._pairs):
            return roots
        found = np.searchsorted(self._pairs, roots).clip(max=len(self._pairs) - 1)
        paired = self._pairs[found] == roots
        first = np.where(paired, self._units[found, 0], roots)
        return np.concatenate([first, self._units[found[paired], 1]])

    def placed(self, position: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of every root, those of pairs from ``width`` on, and the places of both units of each."""
        position = position.copy()
        pairs, position[self._pairs] = _paired(position[self._units], width)
        return position, pairs


def _scales(trace: ChannelTrace, position: np.ndarray) -> tuple[ScoreScale, ...]:
    """Return the rows that write queries whose scores code divides by the number of places."""
    found = []
    for one in trace.scores:
        places = position[trace.atoms.roots(one.places)]
        if not one.follows or places.max(initial=-1) < 0:
            continue
        for tie in trace.ties:
            rows = np.flatnonzero(np.isin(tie.atoms.numpy(), one.queries.numpy()))
            if len(rows):
                found.append(ScoreScale(tie.tensor, tie.dim, rows, places))
    return tuple(found)


@dataclass
class _Bucket:
    """Roots of one group to be: same reason, same producer, same places in tensors."""

    reason: str
    producer: str
    members: tuple[str, ...]
    roots: np.ndarray


def _buckets(trace: ChannelTrace, tied: Sequence[tuple[str, int, np.ndarray]], units: _UnitsOf) -> list[_Bucket]:
    """Return the roots that a layer produces, those that go together in one bucket, in the order of their producers."""
    producer = np.full(len(trace.atoms), -1)
    order: list[np.ndarray] = [np.zeros(0, np.int64)]
    for place, layer in enumerate(trace.layers):
        if layer.kind.produces:
            roots, first = np.unique(units.of(trace.atoms.roots(layer.outputs)), return_index=True)
            roots = roots[np.argsort(first)]
            order.append(roots[(producer[roots] < 0) & (roots > 0)])
            producer[order[-1]] = place
    signature, parts = _signatures(len(trace.atoms), tied)
    reasons = trace.atoms.reasons
    buckets: dict[tuple[str, str, int], list[int]] = {}
    for root in np.concatenate(order).tolist():
        key = (reasons.get(root, ""), trace.layers[producer[root]].name or WHOLE, int(signature[root]))
        buckets.setdefault(key, []).append(root)
    return [
        _Bucket(reason, name, _members(parts, number), np.asarray(roots)) for (reason, name, number), roots in buckets.items()
    ]


def _signatures(count: int, tied: Sequence[tuple[str, int, np.ndarray]]) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Return a number for every root, the same for those in the same places of tensors, and the numbers' parts.

    The roots are one class at first, and every tied dimension splits each class into those in it and the others.

    Returns:
        Numbers, int64 of shape ``(count,)``; by number, that of the class it was split from and the tensor that split it.
    """
    numbers = np.zeros(count, dtype=np.int64)
    parts = [(-1, "")]
    for tensor, _, roots in tied:
        present = np.unique(roots)
        before, place = np.unique(numbers[present], return_inverse=True)
        numbers[present] = len(parts) + place
        parts.extend((old, tensor) for old in before.tolist())
    return numbers, parts


def _members(parts: Sequence[tuple[int, str]], number: int) -> tuple[str, ...]:
    """Return the names of the modules that the roots of a number are in, in the order of :func:`_signatures`."""
    tensors = []
    while number > 0:
        number, tensor = parts[number]
        tensors.append(tensor)
    return tuple(dict.fromkeys(tensor.rpartition(".")[0] or WHOLE for tensor in reversed(tensors)))


def _units(trace: ChannelTrace) -> dict[int, UnitName]:
    """Return the kind of unit by root, for those that stand for more than a channel."""
    found: dict[int, UnitName] = {}
    for unit in (*reversed(WIDTHS), HEADS, KV_GROUPS):
        for _, atoms in (one for one in trace.units if one[0] == unit):
            found |= dict.fromkeys(np.unique(trace.atoms.roots(atoms)).tolist(), unit)
    return found


def _named(
    buckets: Sequence[_Bucket], shares: np.ndarray, units: Mapping[int, UnitName]
) -> tuple[list[Group], list[Group], np.ndarray]:
    """Return the open groups, the frozen ones, and the place in the mask of every root, -1 for one of no open group."""
    taken: dict[str, int] = {}
    groups: list[Group] = []
    frozen: list[Group] = []
    position = np.full(len(shares), -1, dtype=np.int64)
    width = 0
    for bucket in buckets:
        count = taken[bucket.producer] = taken.get(bucket.producer, 0) + 1
        name = bucket.producer if count == 1 else f"{bucket.producer}#{count}"
        share, size = float(shares[bucket.roots].max()), len(bucket.roots)
        reason = bucket.reason or ("" if size > 1 else "a single coupled channel, which must stay")
        unit = next((units[root] for root in bucket.roots.tolist() if root in units), CHANNELS)
        (frozen if reason else groups).append(Group(name, size, bucket.members, share, reason, -1 if reason else width, unit))
        if not reason:
            position[bucket.roots] = np.arange(width, width + size)
            width += size
    return groups, frozen, position


def _total_macs(layer: LayerTrace) -> float:
    return layer.macs * len(layer.outputs) * (len(layer.inputs) if layer.groups == 1 else 1) * len(layer.passing)


def _activations(trace: ChannelTrace, position: np.ndarray) -> tuple[LiveActivation, ...]:
    """Return the storages of activations, by places in the mask; ``position`` has the place of every root."""
    found = []
    for one in trace.activations:
        small = None if one.labels is None else compact(one.labels)
        places = ALWAYS
        if small is not None and small.numel() == max(small.shape, default=1):
            followed = position[trace.atoms.roots(small.reshape(-1))]
            places = followed if followed.max(initial=-1) >= 0 else ALWAYS
        beside = ALWAYS if one.beside is None else position[trace.atoms.roots(one.beside)]
        size = one.bytes / (max(1, len(places)) * len(beside))
        found.append(LiveActivation(size, places, one.born, one.died, beside))
    return tuple(found)


def _fixed_macs(trace: ChannelTrace) -> dict[str, float]:
    """Return the multiply-accumulates that are counted in a module beyond those of the layers, by module."""
    fixed = {name or WHOLE: float(macs) for name, macs in trace.macs.items()}
    for layer in trace.layers:
        name = (layer.name if layer.runner is None else layer.runner) or WHOLE
        fixed[name] = fixed.get(name, 0.0) - _total_macs(layer)
    return {name: macs for name, macs in fixed.items() if macs >= 0.5}


def _macs_shares(trace: ChannelTrace, other_macs: float, units: _UnitsOf) -> np.ndarray:
    """Return the share of all MACs in layers that read or write the channels of each root, by root."""
    shares = np.zeros(len(trace.atoms))
    total = other_macs
    for layer in trace.layers:
        macs = _total_macs(layer)
        total += macs
        shares[np.unique(units.of(trace.atoms.roots(torch.cat([layer.inputs, layer.outputs, layer.passing]))))] += macs
    return shares / total if total else shares
