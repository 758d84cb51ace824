"""The self-check: the sliced network must answer as the masked one does, in double precision."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.blame import find_faults
from spaces.channels.branches import untried_branches
from spaces.channels.differences import differing_groups
from spaces.channels.groups import ChannelGroups, Group, TracedGroups, paired, trace_groups
from spaces.channels.masking import masked_copy
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.channels.units import WIDTHS, UnitName
from spaces.cloning.admission import admitted
from spaces.cloning.clone import clone
from spaces.errors import EquivalenceError, NetworkWarning, UnsupportedModelError
from spaces.execution.batch import Nested, map_tensors, named_tensors, plain_tensors, repeat, select
from spaces.execution.code_places import failed_place
from spaces.execution.comparison import SINGLE_TOLERANCE, compare, eager, output_difference, probe
from spaces.execution.forward import Forward, call
from spaces.execution.randomness import kept_randomness
from spaces.layers.split_attention import of_torch, split_attention


def equivalence_error(
    model: nn.Module, groups: ChannelGroups, mask: np.ndarray, inputs: Nested, forward: Forward = call
) -> float:
    """Return the largest absolute difference between the sliced and the masked network's outputs, in float64.

    Errors are those of :func:`spaces.execution.comparison.output_difference`; to read a tensor of ``model`` is one.
    """
    own = in_factors(model, groups)
    sliced, masked = apply_cut(own, plan_cut(groups, mask)), masked_copy(own, groups, mask)
    return output_difference(sliced, masked, inputs, forward, (model,))


def in_factors(model: nn.Module, groups: ChannelGroups) -> nn.Module:
    """Return ``model``, or a copy in float64 where a cut multiplies weights, so that no factor is rounded."""
    return clone(model).double() if groups.scales else model


def randomize_batch_norm(exact: nn.Module, probe: Nested, forward: Forward) -> nn.Module:
    """Set the BN statistics from random inputs, in place: in a fresh deep network nothing may reach the output, so that
    any slice would look right. Left in evaluation mode.
    """
    norms = [m for m in exact.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    exact.eval()
    if norms and any(entry.is_floating_point() for _, entry in named_tensors(probe)):
        backup = [(norm, norm.momentum, {k: t.clone() for k, t in norm.named_buffers()}) for norm in norms]
        try:
            for norm in norms:
                norm.train()
                norm.momentum = 1.0
            generator = torch.Generator().manual_seed(1)
            batch = map_tensors(lambda entry: _random(entry, generator), repeat(select(probe, 0, 1), 8))
            with torch.no_grad():
                forward(exact, batch)
        except Exception:
            for norm, _, buffers in backup:
                for name, tensor in buffers.items():
                    norm.get_buffer(name).copy_(tensor)
        finally:
            for norm, momentum, _ in backup:
                norm.momentum = momentum
            exact.eval()
    return exact


def half_mask(groups: ChannelGroups, chosen: Sequence[Group], seed: int = 0) -> np.ndarray:
    """Return a whole mask that keeps a random half of every chosen group, and all of the others."""
    rng = np.random.default_rng(seed)
    mask = np.ones(groups.width, dtype=bool)
    for group in chosen:
        removed = rng.permutation(group.size)[: group.size // 2]
        mask[group.offset + removed] = False
    return mask


def _random(entry: Tensor, generator: torch.Generator) -> Tensor:
    """Return random numbers of the shape and type of ``entry``; ``entry`` itself where it is of integers."""
    if not entry.is_floating_point():
        return entry
    return torch.randn(entry.shape, generator=generator, dtype=entry.dtype).to(entry.device)


def uneven_mask(groups: ChannelGroups, chosen: Sequence[Group], seed: int = 0) -> np.ndarray:
    """Return a whole mask that takes another number of channels from every chosen group, a quarter to three quarters of it.

    Groups of one size lose different numbers as far as there are any, so that code which expects two numbers of channels to
    be equal fails.
    """
    rng = np.random.default_rng(seed)
    mask = np.ones(groups.width, dtype=bool)
    counts: dict[int, list[int]] = {}
    for group in chosen:
        left = counts.setdefault(group.size, [])
        if not left:
            left.extend(rng.permutation(np.arange(math.ceil(group.size / 4), group.size * 3 // 4 + 1)).tolist())
        mask[group.offset + rng.permutation(group.size)[: min(left.pop(), group.size - 1)]] = False
    return mask


def find_checked_groups(
    model: nn.Module,
    inputs: Nested,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    forward: Forward = call,
) -> ChannelGroups:
    """Find the channel groups of ``model`` and freeze, with the reason, those whose slices do not pass the self-check.

    Code that does not run on ``inputs``, but in training or on others, is told by a NetworkWarning. Arguments and errors are
    those of :func:`spaces.channels.groups.find_groups`.
    """
    with kept_randomness(), eager():
        own, inputs = split_attention(admitted(model)), plain_tensors(inputs)
        traced = trace_groups(own, inputs, include, exclude, forward)
        remarks = tuple(untried_branches(own, inputs, forward))
        for remark in remarks:
            warnings.warn(remark, NetworkWarning, stacklevel=3)
        return replace(_checked(own, _followed(own, traced, inputs, forward), inputs, forward), remarks=remarks)


def _checked(own: nn.Module, groups: ChannelGroups, inputs: Nested, forward: Forward) -> ChannelGroups:
    """Return ``groups`` without those whose slices fail; ``own`` is changed."""
    single = randomize_batch_norm(own.float(), probe(inputs, torch.float32), forward)
    mask = uneven_mask(groups, groups.groups)
    try:
        small, masked = apply_cut(single, plan_cut(groups, mask)), masked_copy(single, groups, mask)
        compare(small, masked, probe(inputs, torch.float32), forward, SINGLE_TOLERANCE)
        return groups
    except EquivalenceError:
        exact = single.double()
    for attempt in range(3):
        mask = uneven_mask(groups, groups.groups)
        sliced, masked = apply_cut(exact, plan_cut(groups, mask)), masked_copy(exact, groups, mask)
        try:
            output_difference(sliced, masked, inputs, forward, (exact,))
            return groups
        except EquivalenceError as error:
            bad: Mapping[str, str] = {}
            if attempt < 2 and error.__cause__ is not None:
                bad = _touched(groups, sliced, error)
            elif attempt == 0:
                bad = differing_groups(exact, groups, mask, inputs, forward)
            groups = freeze(groups, bad or {group.name: str(error) for group in groups.groups})
            if not bad:
                break
    return groups


def _touched(groups: ChannelGroups, sliced: nn.Module, error: EquivalenceError) -> dict[str, str]:
    """Return the groups that layers inside a failing module read or write, each with the reason; none outside any module.

    Modules of the same class, unless it is one of PyTorch's, run the same code: their groups are among them.
    """
    place = failed_place(error.__cause__ or error, sliced)[0]
    if place and not any(True for _ in sliced.get_submodule(place).children()):
        place = place.rpartition(".")[0]
    if not place:
        return {}
    kind = type(sliced.get_submodule(place))
    alike = [place]
    if not of_torch(sliced.get_submodule(place)):
        alike = [name for name, module in sliced.named_modules() if type(module) is kind]
    inside = [layer for layer in groups.layers if any(layer.name.startswith(f"{name}.") for name in alike)]
    places = [side for one in inside for side in (one.inputs, one.outputs)]
    return {group.name: str(error) for group in groups.groups if groups.touched(group, *places)}


def _followed(model: nn.Module, traced: TracedGroups, inputs: Nested, forward: Forward) -> ChannelGroups:
    """Return the groups whose removal the network's code follows, in the shapes of all tensors; the others are frozen."""
    while traced.groups.groups:
        mask = uneven_mask(traced.groups, traced.groups.groups)
        sliced = apply_cut(model, plan_cut(traced.groups, mask)).eval()
        kept = traced.groups.extended(mask)[traced.places]
        faults, rescaled = find_faults(sliced, traced.trace, kept, inputs, forward)
        if not faults:
            if traced.rescaled([(one.ratio, one.labels) for one in rescaled], kept):
                traced = traced.renumbered()
            break
        frozen = sum(traced.frozen(fault.labels, fault.reason) for fault in faults)
        if not (frozen or sum(traced.frozen_lenders(mask, fault.given, fault.reason) for fault in faults)):
            break
        traced = traced.renumbered()
    return traced.groups


def of_units(groups: ChannelGroups, units: Sequence[UnitName]) -> ChannelGroups:
    """Return ``groups`` with those frozen whose kind of unit is not among ``units``.

    Raises:
        UnsupportedModelError: The network has no unit of one of the kinds, frozen ones included.
    """
    has = dict.fromkeys(group.unit for group in (*groups.groups, *groups.frozen))
    for unit in units:
        if unit not in has:
            raise UnsupportedModelError(
                f"units: expected kinds that this network has, which are {', '.join(has) or 'none'}, and got {unit!r}"
            )
    left = {group.name: f"{group.unit} are not among `units`" for group in groups.groups if group.unit not in units}
    return freeze(groups, left)


def whole_rows(groups: ChannelGroups) -> ChannelGroups:
    """Return ``groups`` with the widths of heads frozen, for those who set the weights of single channels to zero."""
    why = "a place within heads is no row of its own that training could take to zero"
    return freeze(groups, {group.name: why for group in groups.groups if group.unit in WIDTHS})


def freeze(groups: ChannelGroups, reasons: Mapping[str, str]) -> ChannelGroups:
    """Return ``groups`` with the named open groups frozen for the reasons given."""
    position = np.full(groups.width, -1, dtype=np.int64)
    kept: list[Group] = []
    width = 0
    for group in groups.groups:
        if group.name not in reasons:
            position[group.offset : group.offset + group.size] = np.arange(width, width + group.size)
            kept.append(replace(group, offset=width))
            width += group.size
    closed = [replace(g, reason=reasons[g.name], offset=-1) for g in groups.groups if g.name in reasons]
    return moved(groups, position, kept, closed)


def moved(groups: ChannelGroups, position: np.ndarray, kept: Sequence[Group], closed: Sequence[Group]) -> ChannelGroups:
    """Return ``groups`` with other places in the mask.

    Args:
        groups: The groups.
        position: By place the new place, -1 for a channel that stays; int64 of shape ``(width,)``.
        kept: The open groups.
        closed: Groups that are frozen beside those that are.
    """
    width = sum(group.size for group in kept)
    pairs, position = paired(groups, position, width)
    ties = {
        tensor: moved
        for tensor, dims in groups.ties.items()
        if (moved := {dim: p for dim, places in dims.items() if (p := position[places]).max(initial=-1) >= 0})
    }
    layers = tuple(
        replace(one, inputs=position[one.inputs], outputs=position[one.outputs], passing=position[one.passing])
        for one in groups.layers
    )
    sizes = {module: {name: position[p] for name, p in named.items()} for module, named in groups.sizes.items()}
    activations = tuple(replace(one, places=position[one.places], beside=position[one.beside]) for one in groups.activations)
    masked = tuple(call.mapped(lambda places: position[places]) for call in groups.masked)
    scales = tuple(replace(one, places=position[one.places]) for one in groups.scales)
    return ChannelGroups(
        tuple(kept),
        (*groups.frozen, *closed),
        ties,
        layers,
        groups.fixed_macs,
        sizes,
        activations,
        masked,
        groups.remarks,
        pairs,
        scales,
    )
