"""The joint space: which channels and branches stay and how many bits the layers get, decided together in one candidate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from spaces.base import Row, SearchSpace, Solve
from spaces.bit_width import BitWidth
from spaces.candidate import Candidate, Value
from spaces.channel_mask import ChannelMask
from spaces.channels.check import find_checked_groups
from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.cloning.clone import clone
from spaces.depth import REMOVED, Depth
from spaces.domains import Domain
from spaces.errors import EquivalenceError, UnsupportedModelError
from spaces.execution.batch import Nested, count_samples, select
from spaces.execution.comparison import eager, output_difference
from spaces.execution.forward import Forward, call
from spaces.execution.randomness import kept_randomness
from spaces.frozen import Frozen
from spaces.joint_cost import JointCost, Left, float_sizes
from spaces.joint_depth import JointDepth
from spaces.joint_settings import BITS, CHANNELS, DEPTH, JointSettings
from spaces.latency.layer_latency import Beside, Load, OpenLayer
from spaces.layers.batch_norm import measure_statistics
from spaces.layers.macs import MacsCounter
from spaces.layers.split_attention import split_attention
from spaces.levels.settings import LevelSettings
from spaces.quantization.cost import LayerSizes, costs_of
from spaces.quantization.quantizable import Quantizable, QuantizerLocation
from spaces.residual.removal import KIND, remove
from spaces.residual.units import Unit

ADDITIONS = "operands of additions are not quantized where branches may leave"
"""Reason why additions stay in float beside depth."""


class Joint(SearchSpace[JointSettings]):
    """Keep-masks of channels, branches or blocks that stay, and the bits of what both leave, in one candidate.

    A candidate's network is the small one: channels are sliced out, branches taken out, its BatchNorm statistics measured
    again, and it is then quantized. So it is prepared, too: what is trained has the candidate's channels and branches only.
    Channels that only a removed branch has, and bits of its layers, decide nothing; they cost nothing and are left alone.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: What is decided, and the options of each.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches to calibrate on; ``inputs`` where there are none.

    Attributes:
        groups: The channel groups.

    Raises:
        UnsupportedModelError: No channel or no branch of the network can be removed, or nothing in it can be quantized, and
            this is to be decided.
    """

    Settings = JointSettings
    quantizes = True

    def __init__(
        self,
        model: nn.Module,
        inputs: Nested,
        settings: JointSettings | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Build the spaces over the same batches; compare a network without channels and branches with its masked form."""
        super().__init__(model, inputs, settings, forward=forward)
        settings, chosen = self.settings, self.settings.spaces
        self._batches: list[Nested] = []
        seen = self._first(batches, settings.calibration_samples)
        self._masks = (
            ChannelMask(model, inputs, settings.channels, forward=forward, batches=seen) if CHANNELS in chosen else None
        )
        # Exhaust the generator: ChannelMask reads no batches if compensation is off, and calibration needs them.
        for _ in seen:
            pass
        self._batches = self._batches or [inputs]
        deep = DEPTH in chosen
        bits = replace(settings.bits, additions=False) if deep else settings.bits
        self._bits = BitWidth(model, inputs, bits, forward=forward, batches=self._batches) if BITS in chosen else None
        self.groups = find_checked_groups(model, inputs, (), ("*",), forward) if self._masks is None else self._masks.groups
        self._cost = self._counted(model)
        self._depth: JointDepth | None = None
        if deep:
            split = split_attention(clone(model))
            depth = Depth(split, inputs, settings.depth, forward=forward, batches=self._batches)
            self._depth = JointDepth(depth, self.groups, self._cost, [*_domains(self._masks), *_domains(self._bits)])
            if faults := self._faults(split, depth):
                depth.keep(faults)

    @classmethod
    def quantizes_with(cls, settings: JointSettings) -> bool:
        """Return True if bits are decided."""
        return BITS in settings.spaces

    def _counted(self, model: nn.Module) -> JointCost:
        if self._bits is not None:
            whole = self._bits.prepare(model, self._bits.cheapest())
            return JointCost(self._bits.found, whole, self.groups, self._bits.cost.whole)
        sizes = float_sizes(model, sum(self.groups.module_macs.values()))
        return JointCost(Quantizable((), (), (), ()), model, self.groups, sizes)

    def _first(self, batches: Iterable[Nested], samples: int) -> Iterator[Nested]:
        """Pass batches on, and keep the first ``samples`` samples of them."""
        for batch in batches:
            missing = samples - sum(count_samples(kept) for kept in self._batches)
            if missing > 0:
                self._batches.append(select(batch, 0, missing))
            yield batch

    def _faults(self, model: nn.Module, depth: Depth) -> dict[str, str]:
        """Return why units must stay, by name: without them the network of fewer channels answers or costs otherwise."""
        few = self._masks.sample(np.random.default_rng(0)) if self._masks is not None else Candidate({})
        bits = Candidate({}) if self._bits is None else self._bits.cheapest()

        def fault(units: Sequence[Unit]) -> str:
            gone = {unit.name for unit in units}
            own = Candidate({unit.name: int(unit.name not in gone) for unit in depth.units})
            candidate = few.joined(bits).joined(self._named(own))
            try:
                with kept_randomness(), eager():
                    self._difference(model, candidate)
                    small, counter = self._small(model, candidate).eval(), MacsCounter()
                    with counter.counting(small), torch.no_grad():
                        self._forward(small, self._inputs)
            except (EquivalenceError, UnsupportedModelError) as error:
                return str(error)
            counted, expected = float(sum(counter.macs.values())), self.costs(candidate)["macs"]
            return (
                "" if counted == expected else f"in a network of fewer channels {counted - expected:+,.0f} MACs are left of it"
            )

        together = fault(depth.units)
        alone = {unit.name: one for unit in depth.units if (one := fault([unit]))} if together else {}
        return alone if alone or not together else dict.fromkeys((unit.name for unit in depth.units), together)

    @cached_property
    def channels(self) -> ChannelGroups | None:
        """The open and frozen channel groups, :attr:`groups`; None where no channels are decided."""
        return None if self._masks is None else self.groups

    @cached_property
    def quantizers(self) -> Sequence[QuantizerLocation]:
        """Places where values are quantized, with the sizes that they have in the whole network."""
        return () if self._bits is None else self._bits.quantizers

    @cached_property
    def frozen(self) -> Sequence[Frozen]:
        """Channel groups and branches that stay whole, then layers and additions that stay in float, each with the reason."""
        found = [
            *([] if self._masks is None else self._masks.frozen),
            *([] if self._depth is None else self._depth.space.frozen),
        ]
        if self._bits is not None:
            beside = self._depth is not None and self._bits.settings.activation_bits
            found += [*self._bits.frozen, *([Frozen("additions", 0, ADDITIONS, 0.0)] if beside else [])]
        return found

    @cached_property
    def removable(self) -> Sequence[Frozen]:
        """The branches or blocks that may go, by the names of their decisions."""
        return () if self._depth is None else self._depth.removable

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample."""
        return float(sum(self.groups.module_macs.values())) if self._bits is None else self._bits.network_macs

    @cached_property
    def domains(self) -> Mapping[str, Domain]:
        """Legal keep-masks per group, 0 and 1 per branch or block, legal bits per layer and addition, each in graph order."""
        return {**_domains(self._masks), **({} if self._depth is None else self._depth.domains), **_domains(self._bits)}

    @cached_property
    def level_settings(self) -> LevelSettings:
        """The setting ``channels.levels``."""
        return self.settings.channels.levels

    @cached_property
    def limits(self) -> Mapping[str, float]:
        """The setting ``depth.max_removed``, as a limit on ``removed_units``."""
        return {} if self._depth is None else self._depth.space.limits

    def excess(self, candidate: Candidate) -> float:
        """Return the number of removed branches or blocks above ``depth.max_removed``."""
        return 0.0 if self._depth is None else self._depth.space.excess(self._depth.own(candidate))

    def gains(self) -> Mapping[str, np.ndarray]:
        """Return, for every branch or block, 1 and its influence, scaled to at most 1."""
        return {} if self._depth is None else self._depth.gains()

    def idle(self, candidate: Candidate) -> Collection[str]:
        """Return the decisions on channels that are gone with all that reads them, and on bits of layers that are gone."""
        left = self._left(candidate)
        if left is None:
            return ()
        layers = {point.decision: point.layer for point in self.quantizers}
        return [name for name, stay in left.groups.items() if not stay] + [n for n, layer in layers.items() if left.gone(layer)]

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Draw a legal candidate of every space."""
        if self._depth is None:
            return super().sample(rng)
        masks, bits = (Candidate({}) if one is None else one.sample(rng) for one in (self._masks, self._bits))
        return masks.joined(self._named(self._depth.space.sample(rng))).joined(bits)

    def validate(self, candidate: Candidate) -> None:
        """Check every decision, and the number of branches or blocks that are gone.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain, or too many are gone.
        """
        super().validate(candidate)
        if self._depth is not None:
            self._depth.space.validate(self._depth.own(candidate))

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the candidate's small network that can be trained; with bits quantized and calibrated.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain.
        """
        self.validate(candidate)
        if self._bits is None:
            return self._small(model, candidate)
        if not self._shrinks(candidate):
            return self._bits.prepare(model, candidate.part(self._bits.domains))
        small = self._small(model, candidate)
        measure_statistics(small, self._batches, self._forward)
        return self._quantized(small, self._bits, candidate)

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the small network as it goes on through a pipeline; a quantized one as :meth:`BitWidth.convert` does."""
        return clone(prepared) if self._bits is None else self._bits.convert(prepared)

    def realize(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the deployable network of ``candidate``; ``model`` is left unchanged and shares no storage with it."""
        return self.prepare(model, candidate) if self._bits is None else super().realize(model, candidate)

    def reconstruct(self, model: nn.Module, candidate: Candidate, solve: Solve) -> nn.Module:
        """Return the small network, whose layers are solved before ranges are calibrated and weights rounded."""
        self.validate(candidate)
        if not self._shrinks(candidate):
            return self.realize(model, candidate)
        cut = plan_cut(self.groups, self._mask(candidate))
        small = self._without(apply_cut(model, cut), candidate)
        solve(small, cut)
        return small if self._bits is None else self.convert(self._quantized(small, self._bits, candidate))

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest difference between outputs: of the small and the masked network, and of fake and stored bits.

        In the masked network removed channels and branches are zero.

        Raises:
            EquivalenceError: They differ.
        """
        self.validate(candidate)
        with kept_randomness(), eager():
            difference = self._difference(model, candidate)
        return difference if self._bits is None else max(difference, self.check_prepared(self.prepare(model, candidate)))

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the difference between fake and stored bits of a prepared network, which is small already.

        Raises:
            EquivalenceError: The stored integers answer otherwise.
        """
        return 0.0 if self._bits is None else self._bits.check_prepared(prepared)

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes`` (of the stored form), ``bit_operations``, perhaps ``latency_ms``.

        With depth also ``removed_units``.
        """
        bits = {} if self._bits is None else self._bits.layer_bits(candidate.part(self._bits.domains).values)
        costs = costs_of(bits, self.layer_sizes(candidate))
        if self._bits is None:
            del costs["weight_bits"]
        if self._depth is not None:
            costs[REMOVED] = float(len(self._depth.gone(candidate)))
        return self._with_latency(costs, candidate)

    def open_layers(self) -> dict[str, OpenLayer]:
        """Return every layer with MACs, whether its channels may go, and all bits that it may have."""
        bits = {} if self._bits is None else self._bits.open_layers()
        found = {} if self._masks is None else self._masks.open_layers()
        return bits | {name: replace(one, bits=bits[name].bits) if name in bits else one for name, one in found.items()}

    def latency_terms(self, candidate: Candidate) -> dict[str, Load]:
        """Return the channels and the bits of every layer with MACs that is left."""
        quantized = {} if self._bits is None else self._bits.latency_terms(candidate.part(self._bits.domains))
        kept = {} if self._masks is None else self._masks.latency_terms(candidate.part(self._masks.domains))
        found = quantized | {n: (*one[:2], *quantized[n][2:]) if n in quantized else one for n, one in kept.items()}
        left = self._left(candidate)
        return found if left is None else {name: one for name, one in found.items() if not left.gone(name)}

    def latency_beside(self, candidate: Candidate) -> Beside:
        """Return the products of activations, and the branches or blocks, that a candidate leaves."""
        left = self._left(candidate)
        products = 0.0
        if self._masks is not None:
            products = self._masks.products(self._mask(candidate), None if left is None else left.layers)
        parts = {} if self._depth is None else self._depth.space.left_by_class(self._depth.own(candidate))
        return Beside(products, parts)

    def layer_sizes(self, candidate: Candidate) -> LayerSizes:
        """Return the layer sizes of a candidate's network."""
        return self._cost.layer_sizes(self._mask(candidate), self._left(candidate))

    def cheapest(self) -> Candidate:
        """Return the candidate of the fewest channels, branches and bits."""
        masks, bits = (Candidate({}) if one is None else one.cheapest() for one in (self._masks, self._bits))
        units = Candidate({}) if self._depth is None else self._named(self._depth.space.cheapest())
        return masks.joined(units).joined(bits)

    def starting_points(self) -> tuple[Candidate, ...]:
        """Return the whole network with the uniform allocations of bits, from the most to the fewest."""
        whole = Candidate({name: np.ones(domain.length, dtype=bool) for name, domain in _domains(self._masks).items()})
        whole = whole.joined(Candidate({part.name: 1 for part in self.removable}))
        return () if self._bits is None else tuple(whole.joined(bits) for bits in self._bits.starting_points())

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        """Return the keep ratio of every group, which branches stay, and the bits."""
        masks = {} if self._masks is None else self._masks.describe(candidate.part(self._masks.domains))
        return {name: masks.get(name, candidate.values[name]) for name in self.domains}

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the record: first channels are sliced out, then branches leave, then the rest is quantized."""
        self.validate(candidate)
        values = dict(candidate.part(self.domains).values)
        mask = self._mask(candidate)
        masks = dict(candidate.part(_domains(self._masks)).values)
        steps = [{"kind": "slice_channels", "candidate": masks, **plan_cut(self.groups, mask).to_json()}]
        if self._depth is not None:
            units = dict(candidate.part(self._depth.domains).values)
            steps.append({"kind": KIND, "candidate": units, **self._depth.removal(candidate, mask).to_json()})
        if self._bits is not None:
            steps.append(self._bits.transformation_changed(candidate.part(self._bits.domains), self._gone(candidate)))
        return {"kind": "sequence", "candidate": values, "steps": steps}

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``layers`` of the channels, ``depth`` of the branches or blocks, and ``bits`` of what they leave."""
        found: dict[str, list[Row]] = {}
        if self._masks is not None:
            left = self._left(candidate)
            rows = self._masks.report_rows(candidate.part(self._masks.domains))["layers"]
            found["layers"] = [row if left is None or left.groups[row["name"]] else {**row, "kept": 0} for row in rows]
        if self._depth is not None:
            found |= self._depth.space.report_rows(self._depth.own(candidate))
        if self._bits is not None:
            found["bits"] = self._bits.bit_rows(candidate.part(self._bits.domains), self.layer_sizes(candidate))
        return found

    def _named(self, units: Candidate) -> Candidate:
        """Return a candidate of the space of depth in the names of this space."""
        return Candidate({}) if self._depth is None else self._depth.named(units)

    def _left(self, candidate: Candidate) -> Left | None:
        """Return what is left without the branches or blocks that are gone; None where all stay."""
        return None if self._depth is None else self._depth.left(candidate)

    def _gone(self, candidate: Candidate) -> Callable[[str], bool]:
        left = self._left(candidate)
        return (lambda name: False) if left is None else left.gone

    def _mask(self, candidate: Candidate) -> np.ndarray:
        """Return the keep-mask of all groups in a row; what only a removed branch has is cut nowhere."""
        mask = self.groups.mask(candidate) if self._masks is not None else np.ones(self.groups.width, dtype=bool)
        return mask if self._depth is None else self._depth.mask(candidate, mask)

    def _shrinks(self, candidate: Candidate) -> bool:
        """Return True if channels or branches are gone."""
        return self._left(candidate) is not None or not self._mask(candidate).all()

    def _small(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the network in float without channels and branches."""
        mask = self._mask(candidate)
        if self._masks is None:
            return self._without(apply_cut(model, plan_cut(self.groups, mask)), candidate)
        return self._without(self._masks.realize(model, Candidate(self.groups.parts(mask))), candidate)

    def _without(self, sliced: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the network without branches, from the one whose channels are cut."""
        if self._depth is None or self._left(candidate) is None:
            return sliced
        return remove(sliced, self._depth.removal(candidate, self._mask(candidate)))

    def _quantized(self, small: nn.Module, bits: BitWidth, candidate: Candidate) -> nn.Module:
        return bits.prepare_changed(small, candidate.part(bits.domains), self._batches, self._gone(candidate))

    def _difference(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest difference between outputs of the small network and of one with channels and branches at zero."""
        small = self._small(model, candidate)
        masked = split_attention(clone(model))
        if self._masks is not None:
            masked = self._masks.prepare(model, Candidate(self.groups.parts(self._mask(candidate))))
        if self._depth is None:
            return output_difference(small, masked, self._inputs, self._forward, (model,))
        return self._depth.space.difference(small, masked, self._depth.gone(candidate), (model,))


def _domains(space: SearchSpace[Any] | None) -> Mapping[str, Any]:
    """Return the domains of a space; none without one."""
    return {} if space is None else space.domains
