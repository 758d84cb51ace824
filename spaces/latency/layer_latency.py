"""Predict the latency of a network in milliseconds from measurements of its layers, before the network is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shapes import LayerShape

ALIGNMENTS = (16, 8, 4, 1)
"""Multiples, largest first, that divide channel counts into classes: kernels run counts of one class alike.

Milliseconds are interpolated within a class only."""

Load = tuple[int, int, int, int]
"""Configuration of a layer: input channels, output channels, bits of the weights, bits of the input (32: float)."""


@dataclass(frozen=True)
class OpenLayer:
    """A layer whose latency depends on open decisions, with the range of each.

    Attributes:
        shape: The layer in the reference network.
        inputs: Whether input channels may be removed.
        outputs: Whether output channels may be removed.
        step: The number of kept channels is a multiple of this, or all channels.
        bits: Possible pairs (bits of the weights, bits of the input).
    """

    shape: LayerShape
    inputs: bool = False
    outputs: bool = False
    step: int = 1
    bits: tuple[tuple[int, int], ...] = ((FLOAT_BITS, FLOAT_BITS),)


@dataclass(frozen=True)
class Beside:
    """The parts of a network that take time beside its layers (ours).

    Attributes:
        products: Millions of multiply-accumulates of products of two activations, such as those of attention, for one sample.
        parts: Number of branches or blocks that could leave and have not, by class: each has norms, activations and an
            addition of its own.
    """

    products: float = 0.0
    parts: Mapping[str, int] = field(default_factory=dict)


class LayerLatency(Protocol):
    """Predicted milliseconds of single layers."""

    fixed: float
    """Milliseconds of a run that belong to no layer."""

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        """Return the milliseconds that a layer with these channels and bits (32: float) adds to a run."""
        ...

    def beside(self, beside: Beside) -> float:
        """Return the milliseconds that a network takes beside its layers, above :attr:`fixed`."""
        ...


def total(latency: LayerLatency, loads: Mapping[str, Load], beside: Beside | None = None) -> float:
    """Return the milliseconds of a run of a network whose layers have these configurations, and what it has beside them."""
    layers = sum(latency.of(name, *load) for name, load in loads.items())
    return latency.fixed + layers + (0.0 if beside is None or beside == Beside() else latency.beside(beside))


class WrittenLatency:
    """Latencies from a table in the configuration, which holds all milliseconds of a run.

    Args:
        table: Milliseconds by layer and by bits, the latter as ``"WEIGHT_BITSxINPUT_BITS"``.
    """

    fixed = 0.0

    def __init__(self, table: Mapping[str, Mapping[str, float]]) -> None:
        """Keep the table."""
        self._table = table

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        """Return the milliseconds in the table for a layer and these bits."""
        return self._table[layer][latency_key(weight_bits, input_bits)]

    def beside(self, beside: Beside) -> float:
        """Return 0: the table holds all."""
        return 0.0


def latency_key(weights: int, inputs: int | None) -> str:
    """Return the key of a latency table for these bits of weights and input (None: float), such as ``4x8``."""
    return f"{weights}x{FLOAT_BITS if inputs is None else inputs}"


@dataclass(frozen=True)
class LatencyCoefficients:
    """Coefficients of the linear model of a network's latency over the sums of its layers (ours).

    Attributes:
        ms_per_layer_ms: Factor on the milliseconds of a layer measured alone.
        ms_per_million_outputs: Milliseconds per million values that layers write, for the operations between layers.
        ms_per_megabyte: Milliseconds per million bytes of weights, for weights that a whole network evicts from the cache.
        fixed: Milliseconds of a run that belong to no layer.
        ms_per_million_products: Milliseconds per million multiply-accumulates of products of two activations.
        ms_per_part: Milliseconds of a branch or block beside its layers and products, by class.
    """

    ms_per_layer_ms: float = 1.0
    ms_per_million_outputs: float = 0.0
    ms_per_megabyte: float = 0.0
    fixed: float = 0.0
    ms_per_million_products: float = 0.0
    ms_per_part: Mapping[str, float] = field(default_factory=dict)


@dataclass
class MeasuredLatency:
    """Latencies of layers measured at some channel counts, linear between counts of one class (:data:`ALIGNMENTS`).

    Attributes:
        shapes: Layers of the reference network, by name.
        times: Milliseconds of one call of a layer alone, by layer, bits and (input, output) channels.
        coefficients: Linear model from the sums over layers to the latency of a network.
    """

    shapes: Mapping[str, LayerShape]
    times: Mapping[str, Mapping[tuple[int, int], Mapping[tuple[int, int], float]]]
    coefficients: LatencyCoefficients = field(default_factory=LatencyCoefficients)

    def __post_init__(self) -> None:
        """Start with an empty cache of milliseconds by layer and configuration."""
        self._known: dict[tuple[str, int, int, int, int], float] = {}
        self.fixed = self.coefficients.fixed

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        """Return the milliseconds that a layer adds to a run; 0 for an unmeasured layer, which :attr:`fixed` covers."""
        key = layer, in_channels, out_channels, weight_bits, input_bits
        if key not in self._known:
            own, outputs, size = self.parts(layer, (in_channels, out_channels, weight_bits, input_bits))
            by = self.coefficients
            self._known[key] = by.ms_per_layer_ms * own + by.ms_per_million_outputs * outputs + by.ms_per_megabyte * size
        return self._known[key]

    def beside(self, beside: Beside) -> float:
        """Return the milliseconds that a network takes beside its layers, above :attr:`fixed`."""
        parts = sum(self.coefficients.ms_per_part.get(kind, 0.0) * count for kind, count in beside.parts.items())
        return self.coefficients.ms_per_million_products * beside.products + parts

    def parts(self, layer: str, load: Load) -> tuple[float, float, float]:
        """Return the milliseconds of a layer alone, the millions of values in its outputs, and the megabytes of its weights."""
        if layer not in self.times:
            return 0.0, 0.0, 0.0
        shape, (inputs, outputs, weight_bits, input_bits) = self.shapes[layer], load
        grid = self.times[layer][weight_bits, input_bits]
        reads = _between(sorted({one for one, _ in grid}), inputs)
        writes = _between(sorted({other for _, other in grid}), outputs)
        if grouped(shape):
            own = sum(share * grid[count, count] for count, share in writes)
        else:
            own = sum(first * second * grid[one, other] for one, first in reads for other, second in writes)
        values = outputs * _written(shape)
        size = math.prod(shape.kernel) * outputs * (1 if shape.groups > 1 else inputs) * weight_bits / 8
        return own * shape.calls, values * shape.calls / 1e6, size / 1e6

    def to_json(self) -> dict[str, Any]:
        """Return JSON data for :meth:`from_json`."""
        times = {
            layer: [[*bits, *counts, value] for bits, grid in by_bits.items() for counts, value in grid.items()]
            for layer, by_bits in self.times.items()
        }
        shapes = {name: vars(shape) for name, shape in self.shapes.items()}
        return {"shapes": shapes, "times": times, "coefficients": vars(self.coefficients)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MeasuredLatency:
        """Return the latencies that :meth:`to_json` wrote."""
        times: dict[str, dict[tuple[int, int], dict[tuple[int, int], float]]] = {}
        for layer, rows in data["times"].items():
            for weight_bits, input_bits, inputs, outputs, value in rows:
                times.setdefault(layer, {}).setdefault((weight_bits, input_bits), {})[inputs, outputs] = value
        shapes = {name: _shape(shape) for name, shape in data["shapes"].items()}
        # Files of earlier versions have the first four numbers in the same order, some under other names.
        coefficients = data["coefficients"] if "coefficients" in data else data["weights"]
        return MeasuredLatency(shapes, times, LatencyCoefficients(*coefficients.values()))


def grouped(shape: LayerShape) -> bool:
    """Return whether a layer is depthwise: one input channel per output channel, so that both counts are equal."""
    return shape.groups > 1 and shape.groups == shape.in_channels == shape.out_channels


def alignment(count: int) -> int:
    """Return the largest of :data:`ALIGNMENTS` that divides ``count``."""
    return next(step for step in ALIGNMENTS if count % step == 0)


def _shape(data: Mapping[str, Any]) -> LayerShape:
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return LayerShape(**plain)


def _written(shape: LayerShape) -> float:
    strides = math.prod(shape.stride)
    size = math.prod(shape.size)
    return size * strides if shape.kind == "conv_transpose" else size / strides


def _between(counts: Sequence[int], wanted: int) -> list[tuple[int, float]]:
    """Return the measured counts on both sides of ``wanted`` and their interpolation weights.

    Counts of the class of ``wanted`` are used if there are any, else all. Outside the measured range the nearest count has
    weight 1.
    """
    alike = [count for count in counts if alignment(count) == alignment(wanted)] or list(counts)
    below = max((count for count in alike if count <= wanted), default=alike[0])
    above = min((count for count in alike if count >= wanted), default=alike[-1])
    if above == below:
        return [(below, 1.0)]
    share = (wanted - below) / (above - below)
    return [(below, 1.0 - share), (above, share)]
