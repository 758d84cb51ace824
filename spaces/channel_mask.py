"""The space of channel keep-masks: which coupled channels of a network stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from spaces.base import Row, SearchSpace, Solve
from spaces.candidate import Candidate, Value, first_channels
from spaces.channels.check import equivalence_error, find_checked_groups, in_factors, of_units
from spaces.channels.compensation import Compensation
from spaces.channels.configuration import configured
from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups, Group, Layer
from spaces.channels.masking import masked_copy, unmasked
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.channels.tied_blocks import tied_blocks
from spaces.channels.units import CHANNELS, UnitName
from spaces.cloning.clone import clone
from spaces.domains import Mask
from spaces.errors import UnsupportedModelError
from spaces.execution.batch import Nested
from spaces.execution.comparison import eager
from spaces.execution.forward import Forward, call
from spaces.execution.randomness import kept_randomness
from spaces.latency.layer_latency import Beside, Load, OpenLayer
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shape_inference import layer_shapes
from spaces.layers.split_attention import split_attention
from spaces.levels.settings import LevelSettings

PREPARED = "channel_keep_mask"


@dataclass(frozen=True)
class ChannelMaskSettings:
    """Options of the channel space.

    Attributes:
        round_to: Kept channels of a group come in multiples of this (what the hardware likes), or are all kept.
        include: Name patterns of layers whose output channels may go; empty for all.
        exclude: Name patterns of layers whose output channels stay.
        max_ratio: Largest share of a group's channels that may be removed.
        compensate: ``channel``, or true for short, to correct the consuming layers of candidates by least squares on channel
            averages, so that kept channels stand in for the removed ones (see :mod:`spaces.channels.compensation`); needs
            calibration batches. A reconstruction starts without. False leaves candidates as they are cut.
        levels: How many channels of a group an algorithm that searches levels may keep, and how their order is learnt.
        units: Kinds of units that may go: ``channels``, attention ``heads``, ``kv_groups`` (heads of keys and values with the
            queries that they answer), ``qk_width`` (a place within every head of queries and keys, and of values where code has
            one number for both) and ``v_width`` (one of values); empty for all that the network has.
        heads_multiple: Kept heads, or groups of them, of an attention come in multiples of this, or are all kept.
        width_multiple: Kept places within every head, ``qk_width`` and ``v_width``, come in multiples of this, or are all kept.
        tie: ``blocks`` makes the same unit of all blocks of a chain one decision, and ties what a configuration of transformers
            has one number for, so that the smaller network is of an ordinary configuration: ``save_pretrained`` writes it and
            ``from_pretrained`` loads it without this project. ``none`` decides every block apart.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    round_to: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_ratio: float = 0.95
    compensate: bool | Literal["channel"] = True
    levels: LevelSettings = field(default_factory=LevelSettings)
    units: tuple[UnitName, ...] = ()
    heads_multiple: int = 1
    width_multiple: int = 1
    tie: Literal["none", "blocks"] = "none"

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {self.round_to}")
        if self.heads_multiple < 1:
            raise ValueError(f"heads_multiple must be at least 1, got {self.heads_multiple}")
        if self.width_multiple < 1:
            raise ValueError(f"width_multiple must be at least 1, got {self.width_multiple}")
        if not 0.0 < self.max_ratio <= 1.0:
            raise ValueError(f"max_ratio must lie above 0 and at most at 1, got {self.max_ratio}")


class ChannelMask(SearchSpace[ChannelMaskSettings]):
    """Keep-masks over the coupled channel groups of one network, a decision per group.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: Rounding, name patterns and the largest ratio.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches to calibrate the compensation on; without any, removed channels are only removed.

    Raises:
        UnsupportedModelError: The forward pass fails, a pattern matches nothing, or nothing can be removed.
    """

    Settings = ChannelMaskSettings

    def __init__(
        self,
        model: nn.Module,
        inputs: Nested,
        settings: ChannelMaskSettings | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Find the coupled channel groups, and compare one sliced network with its masked form."""
        super().__init__(model, inputs, settings, forward=forward)
        settings = self.settings
        found = find_checked_groups(model, inputs, settings.include, settings.exclude, forward)
        found = of_units(found, settings.units) if settings.units else found
        self.groups = (
            configured(model, tied_blocks(model, found), settings.heads_multiple) if settings.tie == "blocks" else found
        )
        if not self.domains or all(len(domain.legal_counts()) < 2 for domain in self.domains.values()):
            reasons = sorted({group.reason for group in self.groups.frozen}) or ["it has no layer with channels"]
            if sizes := [group.size for group in self.groups.groups]:
                limits = f"round_to {settings.round_to} and max_ratio {settings.max_ratio}"
                reasons = [f"{limits} leave no choice in any of the {len(sizes)} open groups, of {max(sizes)} channels at most"]
            raise UnsupportedModelError(
                "nothing in this network can be pruned: " + "; ".join(reasons[:5]) + ". "
                "`python -m search inspect CONFIG` shows every group; see `include`, `exclude`, `max_ratio` and `round_to`."
            )
        self._cost = ChannelCost(model, self.groups)
        with kept_randomness(), eager():
            own = split_attention(clone(model))
            self._shapes = layer_shapes(own, inputs, forward)
            self._compensation = Compensation(own, self.groups, batches if settings.compensate else (), forward)

    @cached_property
    def channels(self) -> ChannelGroups:
        """The open and frozen channel groups: :attr:`groups`."""
        return self.groups

    @cached_property
    def domains(self) -> Mapping[str, Mask]:
        """Legal keep-masks of every open group, by group name, in graph order."""
        domains = {}
        for group in self.groups.groups:
            step = self._multiple(group)
            fewest = max(1, math.ceil(group.size * (1.0 - self.settings.max_ratio) - 1e-9))
            domains[group.name] = Mask(group.size, min(group.size, math.ceil(fewest / step) * step), step)
        return domains

    @cached_property
    def level_settings(self) -> LevelSettings:
        """The setting ``levels``."""
        return self.settings.levels

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return a copy whose removed channels are zero, and stay zero in training."""
        mask = self._mask(candidate)
        prepared = masked_copy(model, self.groups, mask)
        prepared.load_state_dict(self._compensation.weights(model, mask, dense=True), strict=False)
        prepared.register_buffer(PREPARED, torch.from_numpy(mask.copy()), persistent=False)
        return prepared

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the network without the channels that the prepared network holds at zero."""
        mask = prepared.get_buffer(PREPARED).cpu().numpy()
        return apply_cut(unmasked(prepared), plan_cut(self.groups, mask))

    def realize(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the network without the removed channels; its consuming layers are corrected for them."""
        mask = self._mask(candidate)
        return apply_cut(model, plan_cut(self.groups, mask), self._compensation.weights(model, mask))

    def reconstruct(self, model: nn.Module, candidate: Candidate, solve: Solve) -> nn.Module:
        """Return the network without the removed channels, its layers solved from their plain slices."""
        mask = self._mask(candidate)
        cut = plan_cut(self.groups, mask)
        small = apply_cut(model, cut)
        if not mask.all():
            solve(small, cut)
        return small

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest difference between the outputs of the sliced and the masked network, in float64.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        return super().check(in_factors(model, self.groups), candidate)

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the largest difference between the outputs of the sliced and the masked network, in float64.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        mask = prepared.get_buffer(PREPARED).cpu().numpy()
        return equivalence_error(unmasked(prepared), self.groups, mask, self._inputs, self._forward)

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes``, ``peak_activation_bytes``, ``latency_ms`` where measured."""
        return self.costs_of([candidate])[0]

    def costs_of(self, candidates: Sequence[Candidate]) -> list[dict[str, float]]:
        """Return the :meth:`costs` of every one of many candidates, counted together."""
        masks = np.array([self.groups.mask(candidate) for candidate in candidates]).reshape(-1, self.groups.width)
        counted = zip(self._cost.each(masks), candidates, strict=True)
        return [self._with_latency(costs, candidate) for costs, candidate in counted]

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample."""
        return self._cost.of(np.ones(self.groups.width, dtype=bool))["macs"]

    def open_layers(self) -> dict[str, OpenLayer]:
        """Return every layer with MACs, by name, with its shape and the sides whose channels may go."""
        found = {}
        for layer in self.groups.layers:
            if layer.macs > 0 and layer.name in self._shapes:
                opened = bool((layer.inputs >= 0).any()), bool((layer.outputs >= 0).any())
                found[layer.name] = OpenLayer(self._shapes[layer.name], *opened, self._step(layer))
        return found

    def _step(self, layer: Layer) -> int:
        """Return the number that the channels kept on every side of a layer are a multiple of, where not all are kept."""
        steps = [self.settings.round_to]
        found = self.groups.groups
        for side in (layer.inputs, layer.outputs):
            units, rows = np.unique(self.groups.units_of(side[side >= 0]), axis=0, return_counts=True)
            for (first, second), count in zip(self._owners[units].tolist(), rows.tolist(), strict=True):
                if found[first].unit != CHANNELS:
                    steps.append(count * self._multiple(found[first]) * (1 if second < 0 else self._multiple(found[second])))
        return math.gcd(*steps)

    @cached_property
    def _owners(self) -> np.ndarray:
        """The number of the group of every position in the mask, -1 for none as the last one."""
        sizes = [group.size for group in self.groups.groups]
        return np.append(np.repeat(np.arange(len(sizes)), sizes), -1)

    def _multiple(self, group: Group) -> int:
        settings = self.settings
        return group.multiple(settings.round_to, settings.heads_multiple, settings.width_multiple)

    def latency_terms(self, candidate: Candidate) -> dict[str, Load]:
        """Return input and output channels of every layer with MACs, in float, by layer name."""
        channels = self._cost.channels(self.groups.mask(candidate))
        return {name: (*counts, FLOAT_BITS, FLOAT_BITS) for name, counts in channels.items()}

    def latency_beside(self, candidate: Candidate) -> Beside:
        """Return the products of activations that a candidate leaves, where it changes them."""
        return Beside(products=self.products(self.groups.mask(candidate)))

    def products(self, mask: np.ndarray, left: np.ndarray | None = None) -> float:
        """Return the millions of multiply-accumulates that a keep-mask leaves outside layers, of modules whose channels may go.

        Args:
            mask: Whole keep-mask, boolean of shape ``(width,)``.
            left: Whether a layer of the costs is left, boolean of shape ``(layers,)``; None for all.
        """
        apart = np.array([name not in self._shapes for name in self._cost.layers], dtype=bool)
        macs, _ = self._cost.counts(mask)
        return float(macs[apart if left is None else apart & left].sum()) / 1e6

    def cheapest(self) -> Candidate:
        """Return the candidate that keeps as few channels of every group as it may."""
        fewest = {name: domain.legal_counts()[0] for name, domain in self.domains.items()}
        return Candidate({name: first_channels(kept, self.domains[name].length) for name, kept in fewest.items()})

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        """Return the share of channels that every group keeps."""
        return {name: int((mask := candidate.mask(name)).sum()) / len(mask) for name in self.domains}

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the kept indices of every tensor, as JSON data of the kind ``slice_channels``."""
        cut = plan_cut(self.groups, self._mask(candidate))
        return {"kind": "slice_channels", "candidate": dict(candidate.values), **cut.to_json()}

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``layers``: channels of every group, and how many of them are kept."""
        return {"layers": self.groups.rows(candidate if made is None else Candidate(made["candidate"]))}

    def _mask(self, candidate: Candidate) -> np.ndarray:
        self.validate(candidate)
        return self.groups.mask(candidate)
