"""The space of bit-widths: how many bits the weights and the inputs of every layer get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from spaces.base import Row, SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice
from spaces.errors import EquivalenceError, SecateursError, UnsupportedModelError
from spaces.execution.batch import Nested, to_device
from spaces.execution.comparison import largest_gap
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call, tensors_in
from spaces.frozen import Frozen
from spaces.latency.layer_latency import Load, OpenLayer, WrittenLatency, latency_key
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shape_inference import layer_shapes
from spaces.quantization.bit_choices import all_bits, bits_of, check_choices, require_choices
from spaces.quantization.calibration import Calibration, Method
from spaces.quantization.cost import BitCost, LayerSizes
from spaces.quantization.fake_quantize import fake_quantizers
from spaces.quantization.format import FEWEST, FEWEST_UNSIGNED, MOST
from spaces.quantization.quantizable import QuantizableLayer, QuantizerLocation, find_quantizable
from spaces.quantization.range_statistics import RangeStatistics
from spaces.quantization.record import pack_weights, quantize

TOLERANCE = 1e-6
"""Largest accepted difference between the network with fake quantizers and the stored one, relative to the largest output."""


@dataclass(frozen=True)
class BitWidthSettings:
    """Options of the bit-width space.

    Attributes:
        weight_bits: Bits that weights may have, from 1 to 8: a list for all layers, or lists by name pattern, the first that
            matches counts (``{"layer1.*": [4, 8], "*": [2, 3, 4, 8]}``). One bit is the sign times the mean magnitude.
        activation_bits: Bits that inputs of layers, and operands of additions, may have, from 2 to 8, in the same form; empty
            leaves them in float.
        first_last_bits: Bits of the first and the last layer's weights and inputs; None to decide them like the others.
        tie: ``layer`` gives weights and input of a layer the same bits, by one decision; ``none`` decides them apart.
        additions: Whether the operands of residual additions are quantized.
        include: Name patterns of layers and additions to quantize; empty for all.
        exclude: Name patterns of layers and additions to leave in float.
        method: How ranges are calibrated: ``mse`` (least squared error) or ``percentile``.
        percentile: Share of the values inside the range, in percent, for ``percentile``.
        learned_step: Whether training moves the steps (LSQ; no part of CN112183742B).
        bias_correction: Whether to correct biases by the mean error of rounded weights (no part of CN112183742B).
        latency: Milliseconds of every layer by ``"WEIGHT_BITSxINPUT_BITS"``, by layer: ``{conv1: {4x8: 0.1, 8x8: 0.2}}``. With
            it, the cost ``latency_ms`` is known.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    weight_bits: tuple[int, ...] | dict[str, tuple[int, ...]] = (2, 3, 4, 6, 8)
    activation_bits: tuple[int, ...] | dict[str, tuple[int, ...]] = (4, 6, 8)
    first_last_bits: int | None = 8
    tie: Literal["none", "layer"] = "none"
    additions: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    method: Method = "mse"
    percentile: float = 99.99
    learned_step: bool = True
    bias_correction: bool = True
    latency: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if not self.weight_bits:
            raise ValueError("weight_bits: expected at least one number of bits, such as [2, 4, 8]")
        check_choices("weight_bits", self.weight_bits, FEWEST)
        check_choices("activation_bits", self.activation_bits, FEWEST_UNSIGNED)
        if self.first_last_bits is not None and not FEWEST_UNSIGNED <= self.first_last_bits <= MOST:
            raise ValueError(
                f"first_last_bits: expected a number from {FEWEST_UNSIGNED} to {MOST} or null, got {self.first_last_bits}"
            )
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile: expected a number above 50 and at most 100, got {self.percentile}")
        if self.tie == "layer" and not set(all_bits(self.weight_bits)) & set(all_bits(self.activation_bits)):
            raise ValueError("tie: layer needs numbers of bits that weight_bits and activation_bits have in common")


class BitWidth(SearchSpace[BitWidthSettings]):
    """Bits of the weights (``LAYER.weight``), the input (``LAYER.activation``) and of additions (``ADDITION.activation``).

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: Bits and name patterns, and how ranges are found.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches to calibrate the ranges of activations on; ``inputs`` where there are none.

    Attributes:
        found: Layers and additions that can be quantized.
        cost: Costs of a choice of bits.

    Raises:
        UnsupportedModelError: The forward pass fails, a pattern matches nothing, or nothing can be quantized.
    """

    Settings = BitWidthSettings
    quantizes = True

    def __init__(
        self,
        model: nn.Module,
        inputs: Nested,
        settings: BitWidthSettings | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Find what can be quantized, and observe its ranges on ``batches``."""
        super().__init__(model, inputs, settings, forward=forward)
        settings = self.settings
        model = model.eval()
        found = find_quantizable(model, inputs, settings.include, settings.exclude, forward, settings.additions)
        if not settings.activation_bits:
            found = found.without_additions()
        if not found.layers:
            reasons = sorted({entry.reason for entry in found.frozen}) or ["it has no layer with weights"]
            raise UnsupportedModelError(
                "nothing in this network can be quantized: " + "; ".join(reasons[:5]) + "; see `include` and `exclude`"
            )
        self.found = found
        self._require_bits()
        self._quantizers = tuple(self._locations())
        for site in found.layers if settings.latency else ():
            _require_latency(settings.latency.get(site.name, {}), site.name, self._bit_pairs(site))
        network = quantize(
            model, self._record({point.decision: self.domains[point.decision].options[0] for point in self._quantizers})
        )
        self.cost = BitCost(found, network)
        self._shapes = layer_shapes(model, inputs, forward)
        if settings.latency:
            self.use_latency(WrittenLatency(settings.latency))
        wanted = {point.path: tuple(self.domains[point.decision].options) for point in self._quantizers}
        self._calibration = Calibration(settings.method, settings.percentile)
        self._statistics = RangeStatistics(network, wanted, self._calibration, forward, batches, inputs)

    @cached_property
    def quantizers(self) -> Sequence[QuantizerLocation]:
        """Places where values are quantized, in graph order; those with the same decision have the same bits."""
        return self._quantizers

    @cached_property
    def frozen(self) -> Sequence[Frozen]:
        """Layers and additions that stay in float, each with the reason."""
        total = self.network_macs
        return [Frozen(one.name, one.weights, one.reason, one.macs / max(total, 1.0)) for one in self.found.frozen]

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the network for one sample, whatever the bits."""
        return self.cost.whole.float_macs + sum(self.cost.whole.macs.values())

    @property
    def domains(self) -> Mapping[str, Choice]:
        """Bits of every decision, in graph order."""
        return {point.decision: self._domain_of(point) for point in self._quantizers}

    def _require_bits(self) -> None:
        """Raise UnsupportedModelError unless patterns give every layer bits, and weights and inputs common ones where tied."""
        settings = self.settings
        edges = [site.name for site in self.found.layers if site.edge and settings.first_last_bits is not None]
        layers = [site.name for site in self.found.layers if site.name not in edges]
        additions = [addition.name for addition in self.found.additions]
        require_choices("weight_bits", settings.weight_bits, layers, edges)
        if settings.activation_bits:
            require_choices("activation_bits", settings.activation_bits, [*layers, *additions], edges)
        apart = [name for name in layers if settings.tie == "layer" and not self._tied_bits(name)]
        if apart:
            raise UnsupportedModelError(
                f"tie: layer needs numbers of bits that weight_bits and activation_bits have in common, and {apart[0]} has none"
            )

    def _tied_bits(self, layer: str) -> tuple[int, ...]:
        """Return the bits that both weights and input of a layer may have, ascending."""
        inputs = bits_of(layer, self.settings.activation_bits)
        return tuple(bits for bits in bits_of(layer, self.settings.weight_bits) if bits in inputs)

    def _domain_of(self, point: QuantizerLocation) -> Choice:
        settings = self.settings
        edge = {site.name for site in self.found.layers if site.edge}
        if point.layer in edge and settings.first_last_bits is not None:
            return Choice((settings.first_last_bits,))
        if settings.tie == "layer" and point.macs:
            return Choice(self._tied_bits(point.layer))
        return Choice(bits_of(point.layer, settings.weight_bits if point.kind == "weight" else settings.activation_bits))

    def _locations(self) -> Iterable[QuantizerLocation]:
        tied = self.settings.tie == "layer"
        for site in self.found.layers:
            weight = f"{site.name}.weight"
            yield QuantizerLocation(weight, site.name, "weight", f"{site.name}.weight_quantizer", site.weights, site.macs)
            if self.settings.activation_bits:
                decision = weight if tied else f"{site.name}.activation"
                yield QuantizerLocation(
                    decision, site.name, "activation", f"{site.name}.input_quantizer", site.inputs, site.macs
                )
        for addition in self.found.additions:
            yield QuantizerLocation(
                f"{addition.name}.activation", addition.name, "activation", addition.path, addition.elements, 0.0
            )

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return a copy of ``model`` with calibrated fake quantizers, that can be trained; BatchNorm is folded.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain.
        """
        self.validate(candidate)
        prepared = quantize(model, self._record(candidate.values))
        self._statistics.calibrate(prepared, self.settings.bias_correction)
        return prepared

    def prepare_changed(
        self,
        model: nn.Module,
        candidate: Candidate,
        batches: Iterable[Nested],
        gone: Callable[[str], bool] = lambda name: False,
    ) -> nn.Module:
        """Return a quantized copy of a network with other shapes, such as one with fewer channels or without some modules.

        Args:
            model: A network with the same modules but for those that are gone; left unchanged.
            candidate: Bits of every decision.
            batches: Input batches to calibrate its ranges on, for the chosen bits only.
            gone: Tells whether a module has left.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain.
        """
        self.validate(candidate)
        prepared = quantize(model, self._record(candidate.values, gone))
        chosen = {point.path: (candidate.values[point.decision],) for point in self._quantizers}
        statistics = RangeStatistics(prepared, chosen, self._calibration, self._forward, batches, self._inputs)
        statistics.calibrate(prepared, self.settings.bias_correction)
        return prepared

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the quantized network as it goes on through a pipeline: with float weights behind its fake quantizers.

        So it may be trained further; :func:`spaces.quantization.record.pack_weights` makes the stored form of it, which
        is equal in output, and whose bytes are the ``size_bytes`` of both.
        """
        return prepared.eval()

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest difference between the outputs with fake quantizers and with stored integers.

        Raises:
            EquivalenceError: They differ.
        """
        return self.check_prepared(self.prepare(model, candidate))

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the difference of :meth:`check` for a prepared network, trained or not.

        Raises:
            EquivalenceError: The stored integers answer otherwise.
        """
        device = next(prepared.parameters()).device
        inputs = to_device(self._inputs, device)
        with evaluation_mode(prepared), torch.no_grad():
            expected = tensors_in(self._forward(prepared, inputs))
            found = tensors_in(self._forward(pack_weights(prepared), inputs))
        error, scale = largest_gap(found, expected)
        if not error <= TOLERANCE * max(1.0, scale):
            raise EquivalenceError(f"the stored integers change the network's outputs by {error:.3g}; expected the same")
        return error

    def inherit_weights(self, prepared: nn.Module, weights: Mapping[str, Tensor], model: nn.Module) -> None:
        """Give ``prepared`` the weights and biases of another candidate's network, and learned steps for the same bits.

        Steps for other bits are calibrated anew for the weights, and stay as calibrated for activations.
        """
        own = dict(prepared.named_parameters())
        steps = {f"{name}.scale": name for name in fake_quantizers(prepared)}
        found = {name: tensor for name, tensor in weights.items() if name in own and name not in steps}
        prepared.load_state_dict(found, strict=False)
        self._statistics.calibrate(prepared, bias_correction=False)
        for scale, name in steps.items():
            quantizer = prepared.get_submodule(name)
            if scale in weights and torch.equal(weights[f"{name}.width"].cpu(), quantizer.get_buffer("width").cpu()):
                prepared.load_state_dict({scale: weights[scale]}, strict=False)

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes`` (of the stored form), ``bit_operations``, perhaps ``latency_ms``."""
        return self._with_latency(self.cost.of(self.layer_bits(candidate.values)), candidate)

    def open_layers(self) -> dict[str, OpenLayer]:
        """Return every layer that can be quantized, with all bits that its weights and its input may have together."""
        return {site.name: OpenLayer(self._shapes[site.name], bits=self._bit_pairs(site)) for site in self.found.layers}

    def latency_terms(self, candidate: Candidate) -> dict[str, Load]:
        """Return the channels and the bits of every layer that can be quantized."""
        bits = self.layer_bits(candidate.values)
        shapes = {name: self._shapes[name] for name in bits}
        return {
            name: (shapes[name].in_channels, shapes[name].out_channels, weights, FLOAT_BITS if inputs is None else inputs)
            for name, (weights, inputs) in bits.items()
        }

    def _bit_pairs(self, site: QuantizableLayer) -> tuple[tuple[int, int], ...]:
        weights = self._domain_of(QuantizerLocation("", site.name, "weight", "", 0, site.macs)).options
        inputs = self._domain_of(QuantizerLocation("", site.name, "activation", "", 0, site.macs)).options or (FLOAT_BITS,)
        tied = self.settings.tie == "layer" and bool(self.settings.activation_bits)
        return tuple((int(one), int(other)) for one in weights for other in ([one] if tied else inputs))

    def uniform(self, weight_bits: int, activation_bits: int) -> Candidate:
        """Return the candidate in which every decision has these bits, or the nearest that its domain has (the more of two)."""
        values: dict[str, int] = {}
        for point in self._quantizers:
            wanted = weight_bits if point.kind == "weight" else activation_bits
            options = [int(bits) for bits in self.domains[point.decision].options]
            values.setdefault(point.decision, nearest_bits(options, wanted))
        return Candidate(values)

    def cheapest(self) -> Candidate:
        """Return the candidate with the fewest bits everywhere."""
        return Candidate({name: min(domain.options) for name, domain in self.domains.items()})

    def starting_points(self) -> tuple[Candidate, ...]:
        """Return the uniform allocations, from the most bits to the fewest."""
        activations = max(all_bits(self.settings.activation_bits), default=MOST)
        found = [self.uniform(bits, activations) for bits in reversed(all_bits(self.settings.weight_bits))]
        return tuple(dict.fromkeys(found))

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the record from which the prepared network's structure is rebuilt."""
        return self.transformation_changed(candidate, lambda name: False)

    def transformation_changed(self, candidate: Candidate, gone: Callable[[str], bool]) -> dict[str, Any]:
        """Return the record of :meth:`prepare_changed`."""
        self.validate(candidate)
        return {"kind": "quantize", "candidate": dict(candidate.values), **self._record(candidate.values, gone)}

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``bits``: bits, weights and MACs of every quantized layer, and bits of every addition."""
        return {"bits": self.bit_rows(candidate, self.cost.whole)}

    def bit_rows(self, candidate: Candidate, sizes: LayerSizes) -> list[Row]:
        """Return the rows ``bits`` of the report for a network with these layer sizes."""
        bits: list[tuple[int | None, int | None, str]] = [
            (*one, name) for name, one in self.layer_bits(candidate.values).items() if name in sizes.weights
        ]
        bits += [(None, int(candidate.number(f"{one.name}.activation")), one.name) for one in self.found.additions]
        return [
            {
                "name": name,
                "weight_bits": weights,
                "activation_bits": inputs,
                "weights": sizes.weights.get(name, 0),
                "macs": sizes.macs.get(name, 0.0),
            }
            for weights, inputs, name in bits
        ]

    def layer_bits(self, values: Mapping[str, Any]) -> dict[str, tuple[int, int | None]]:
        """Return the bits of weights and input (None: float) of every layer, from those of every decision."""
        bits: dict[str, dict[str, int]] = {}
        for point in self._quantizers:
            bits.setdefault(point.layer, {})[point.kind] = values[point.decision]
        return {site.name: (bits[site.name]["weight"], bits[site.name].get("activation")) for site in self.found.layers}

    def _record(self, values: Mapping[str, Any], gone: Callable[[str], bool] = lambda name: False) -> dict[str, Any]:
        return {
            "folds": [list(pair) for pair in self.found.folds if not gone(pair[0])],
            "layers": {name: list(bits) for name, bits in self.layer_bits(values).items() if not gone(name)},
            "additions": {addition.name: values[f"{addition.name}.activation"] for addition in self.found.additions},
            "learned": self.settings.learned_step,
        }


def nearest_bits(options: Sequence[int], wanted: int) -> int:
    """Return the option nearest to ``wanted``, the larger one of two."""
    return min(options, key=lambda bits: (abs(bits - wanted), -bits))


def _require_latency(known: Mapping[str, float], layer: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Require an entry of a layer for all bits it may have.

    Raises:
        SecateursError: One is missing.
    """
    for weights, inputs in pairs:
        if latency_key(weights, inputs) not in known:
            raise SecateursError(
                f"space.latency has no entry {latency_key(weights, inputs)!r} for the layer {layer!r}; expected one for every "
                "layer and all bits that it may have, or no table"
            )
