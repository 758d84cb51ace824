"""The joint space: which channels stay and how many bits the layers get, decided together in one candidate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import nn

from spaces.base import Row, SearchSpace, Solve
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate, Value
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.groups import ChannelGroups
from spaces.domains import Domain
from spaces.execution.batch import Nested, count_samples, select
from spaces.execution.forward import Forward, call
from spaces.frozen import Frozen
from spaces.joint_cost import JointCost
from spaces.latency.layer_latency import Load, OpenLayer
from spaces.layers.batch_norm import measure_statistics
from spaces.levels.settings import LevelSettings
from spaces.quantization.cost import LayerSizes
from spaces.quantization.quantizable import QuantizerLocation


@dataclass(frozen=True)
class JointSettings:
    """Options of the joint space.

    Attributes:
        channels: Options of the channels, those of the space ``channel_mask``.
        bits: Options of the bits, those of the space ``bit_width`` but for its table ``latency``, which knows no channels.
        calibration_samples: Samples on which BatchNorm statistics and the ranges of activations of every candidate are found
            anew, since both move when channels go.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    channels: ChannelMaskSettings = field(default_factory=ChannelMaskSettings)
    bits: BitWidthSettings = field(default_factory=BitWidthSettings)
    calibration_samples: int = 256

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples: expected at least 1, got {self.calibration_samples}")
        if self.bits.latency:
            raise ValueError("bits.latency is a table for all channels: expected none here; the evaluator latency measures one")


class Joint(SearchSpace[JointSettings]):
    """Channel keep-masks and the bits of what they leave: a mask per coupled group, and bits per layer and addition.

    A candidate's network is the small one: channels are sliced out, its BatchNorm statistics measured again, and it is then
    quantized. So it is prepared, too: what is trained has the candidate's channels only.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: Options of both spaces.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches to calibrate on; ``inputs`` where there are none.

    Attributes:
        groups: The channel groups.

    Raises:
        UnsupportedModelError: No channel of the network can be removed, or nothing in it can be quantized.
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
        """Build the space of channels and the space of bits over the same batches."""
        super().__init__(model, inputs, settings, forward=forward)
        settings = self.settings
        self._batches: list[Nested] = []
        seen = self._first(batches, settings.calibration_samples)
        self._masks = ChannelMask(model, inputs, settings.channels, forward=forward, batches=seen)
        # Exhaust the generator: ChannelMask reads no batches if compensation is off, and calibration needs them.
        for _ in seen:
            pass
        self._batches = self._batches or [inputs]
        self._bits = BitWidth(model, inputs, settings.bits, forward=forward, batches=self._batches)
        self.groups = self._masks.groups
        whole = self._bits.prepare(model, self._bits.cheapest())
        self._cost = JointCost(self._bits.found, whole, self.groups, self._bits.cost.whole)

    def _first(self, batches: Iterable[Nested], samples: int) -> Iterator[Nested]:
        """Pass batches on, and keep the first ``samples`` samples of them."""
        for batch in batches:
            missing = samples - sum(count_samples(kept) for kept in self._batches)
            if missing > 0:
                self._batches.append(select(batch, 0, missing))
            yield batch

    @cached_property
    def channels(self) -> ChannelGroups:
        """The open and frozen channel groups: :attr:`groups`."""
        return self.groups

    @cached_property
    def quantizers(self) -> Sequence[QuantizerLocation]:
        """Places where values are quantized, with the sizes that they have in the whole network."""
        return self._bits.quantizers

    @cached_property
    def frozen(self) -> Sequence[Frozen]:
        """Channel groups that stay whole, then layers and additions that stay in float, each with the reason."""
        return [*self._masks.frozen, *self._bits.frozen]

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample."""
        return self._bits.network_macs

    @cached_property
    def domains(self) -> Mapping[str, Domain]:
        """Legal keep-masks per channel group, then legal bits of every layer and addition, each in graph order."""
        return {**self._masks.domains, **self._bits.domains}

    @cached_property
    def level_settings(self) -> LevelSettings:
        """The setting ``channels.levels``."""
        return self.settings.channels.levels

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the candidate's small network with calibrated fake quantizers, that can be trained; BatchNorm is folded.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain.
        """
        self.validate(candidate)
        masks, bits = self._parts(candidate)
        if all(masks.mask(name).all() for name in self._masks.domains):
            return self._bits.prepare(model, bits)
        sliced = self._masks.realize(model, masks)
        measure_statistics(sliced, self._batches, self._forward)
        return self._bits.prepare_changed(sliced, bits, self._batches)

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the small quantized network as it goes on through a pipeline: see :meth:`BitWidth.convert`."""
        return self._bits.convert(prepared)

    def reconstruct(self, model: nn.Module, candidate: Candidate, solve: Solve) -> nn.Module:
        """Return the small quantized network, whose layers are solved before ranges are calibrated and weights rounded."""
        self.validate(candidate)
        masks, bits = self._parts(candidate)
        if all(masks.mask(name).all() for name in self._masks.domains):
            return self.realize(model, candidate)
        sliced = self._masks.reconstruct(model, masks, solve)
        return self.convert(self._bits.prepare_changed(sliced, bits, self._batches))

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest difference between outputs: of the sliced and the masked network, and of fake and stored bits.

        Raises:
            EquivalenceError: They differ.
        """
        masks, _ = self._parts(candidate)
        return max(self._masks.check(model, masks), self.check_prepared(self.prepare(model, candidate)))

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the difference between fake and stored bits of a prepared network, whose channels are gone already.

        Raises:
            EquivalenceError: The stored integers answer otherwise.
        """
        return self._bits.check_prepared(prepared)

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes`` (of the stored form), ``bit_operations``, perhaps ``latency_ms``."""
        bits = self._bits.layer_bits(candidate.part(self._bits.domains).values)
        return self._with_latency(self._bits.cost.of(bits, self.layer_sizes(candidate)), candidate)

    def open_layers(self) -> dict[str, OpenLayer]:
        """Return every layer with MACs, whether its channels may go, and all bits that it may have."""
        bits, found = self._bits.open_layers(), self._masks.open_layers()
        return bits | {name: replace(one, bits=bits[name].bits) if name in bits else one for name, one in found.items()}

    def latency_terms(self, candidate: Candidate) -> dict[str, Load]:
        """Return the channels and the bits of every layer with MACs."""
        masks, bits = self._parts(candidate)
        quantized, kept = self._bits.latency_terms(bits), self._masks.latency_terms(masks)
        return quantized | {n: (*one[:2], *quantized[n][2:]) if n in quantized else one for n, one in kept.items()}

    def layer_sizes(self, candidate: Candidate) -> LayerSizes:
        """Return the layer sizes of a candidate's network."""
        return self._cost.layer_sizes(self.groups.mask(candidate))

    def cheapest(self) -> Candidate:
        """Return the candidate of the fewest channels and bits."""
        return self._masks.cheapest().joined(self._bits.cheapest())

    def starting_points(self) -> tuple[Candidate, ...]:
        """Return the whole network with the uniform allocations of bits, from the most to the fewest."""
        whole = Candidate({name: np.ones(domain.length, dtype=bool) for name, domain in self._masks.domains.items()})
        return tuple(whole.joined(bits) for bits in self._bits.starting_points())

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        """Return the keep ratio of every group, and the bits."""
        masks, bits = self._parts(candidate)
        return {**self._masks.describe(masks), **self._bits.describe(bits)}

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the record: first channels are sliced out, then the rest is quantized."""
        self.validate(candidate)
        masks, bits = self._parts(candidate)
        steps = [self._masks.transformation(masks), self._bits.transformation(bits)]
        return {"kind": "sequence", "candidate": dict(candidate.part(self.domains).values), "steps": steps}

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``layers`` of the channels and ``bits`` of what they leave."""
        masks, bits = self._parts(candidate)
        return {**self._masks.report_rows(masks), "bits": self._bits.bit_rows(bits, self.layer_sizes(candidate))}

    def _parts(self, candidate: Candidate) -> tuple[Candidate, Candidate]:
        """Return the keep-masks and the bits of a candidate."""
        return candidate.part(self._masks.domains), candidate.part(self._bits.domains)
