"""Milliseconds of a network from those of its layers, so that a candidate's latency is known before it is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from spaces.candidate import Candidate
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shapes import LayerShape

ALIGNMENTS = (16, 8, 4, 1)
"""What channel counts may be multiples of: counts of one kind are computed in one way, and others in others."""

Load = tuple[int, int, int, int]
"""Input channels, output channels, bits of the weights and bits of the input (32: float)."""


@dataclass(frozen=True)
class OpenLayer:
    """A layer of a space, and what may change in it.

    Attributes:
        shape: The layer as it is.
        inputs: Whether its input channels may go.
        outputs: Whether its output channels may go.
        step: Channels that stay come in multiples of this, unless all stay.
        bits: The bits of weights and input that it may have.
    """

    shape: LayerShape
    inputs: bool = False
    outputs: bool = False
    step: int = 1
    bits: tuple[tuple[int, int], ...] = ((FLOAT_BITS, FLOAT_BITS),)


class LayerLatency(Protocol):
    """Tells milliseconds of layers."""

    fixed: float
    """What a run takes beside its layers."""

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        """Return the milliseconds that a layer adds to a run, with so many channels and bits (32: float)."""
        ...


@runtime_checkable
class LatencySpace(Protocol):
    """A space whose candidates' latency can be added up from their layers'."""

    def open_layers(self) -> Mapping[str, OpenLayer]:
        """Return every layer whose milliseconds are to be known, by name."""
        ...

    def loads(self, candidate: Candidate) -> Mapping[str, Load]:
        """Return what every one of these layers has in ``candidate``."""
        ...

    def use_latency(self, latency: LayerLatency) -> None:
        """Let ``latency_ms`` be among the costs; called once, before anything is asked for."""
        ...


def total(latency: LayerLatency, loads: Mapping[str, Load]) -> float:
    """Return the milliseconds of a run of a network with these layers."""
    return latency.fixed + sum(latency.of(name, *load) for name, load in loads.items())


class WrittenLatency:
    """What a person has written down, by layer and ``"WEIGHT_BITSxINPUT_BITS"``: the whole of the network's latency.

    Args:
        table: Milliseconds by layer and bits.
    """

    fixed = 0.0

    def __init__(self, table: Mapping[str, Mapping[str, float]]) -> None:
        self._table = table

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        """Return what is written of a layer and these bits."""
        return self._table[layer][latency_key(weight_bits, input_bits)]


def latency_key(weights: int, inputs: int | None) -> str:
    """Return the entry of a latency table for a layer with these bits, such as ``4x8``."""
    return f"{weights}x{FLOAT_BITS if inputs is None else inputs}"


@dataclass(frozen=True)
class LatencyCoefficients:
    """How a layer's own milliseconds, its data and the run's overhead make up a network's latency.

    Attributes:
        time: Factor on the milliseconds that a layer took by itself.
        outputs: Milliseconds per million values that a layer writes, for what reads and writes them between layers.
        bytes: Milliseconds per million bytes of weights, which the whole of a network may push out of the processor's cache.
        fixed: Milliseconds of a run beside that.
    """

    time: float = 1.0
    outputs: float = 0.0
    bytes: float = 0.0
    fixed: float = 0.0


@dataclass
class MeasuredLatency:
    """Layers that were measured at some channel counts; between those of one kind (:data:`ALIGNMENTS`) lines are drawn.

    Attributes:
        shapes: The layers.
        times: Milliseconds of a call of a layer by itself, by layer, bits and (input, output) channels.
        weights: What makes a network's latency of them.
    """

    shapes: Mapping[str, LayerShape]
    times: Mapping[str, Mapping[tuple[int, int], Mapping[tuple[int, int], float]]]
    weights: LatencyCoefficients = field(default_factory=LatencyCoefficients)

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, int, int, int, int], float] = {}
        self.fixed = self.weights.fixed

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        """Return the milliseconds that a layer adds to a run; 0 for one that was not measured, which counts as fixed."""
        key = layer, in_channels, out_channels, weight_bits, input_bits
        if key not in self._known:
            own, outputs, size = self.parts(layer, (in_channels, out_channels, weight_bits, input_bits))
            by = self.weights
            self._known[key] = by.time * own + by.outputs * outputs + by.bytes * size
        return self._known[key]

    def parts(self, layer: str, load: Load) -> tuple[float, float, float]:
        """Return a layer's own milliseconds, the millions of values it writes, and the megabytes of its weights."""
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
        """Return it as JSON data, from which :meth:`from_json` makes it again."""
        times = {
            layer: [[*bits, *counts, value] for bits, grid in by_bits.items() for counts, value in grid.items()]
            for layer, by_bits in self.times.items()
        }
        shapes = {name: vars(shape) for name, shape in self.shapes.items()}
        return {"shapes": shapes, "times": times, "weights": vars(self.weights)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MeasuredLatency:
        """Return what :meth:`to_json` has written."""
        times: dict[str, dict[tuple[int, int], dict[tuple[int, int], float]]] = {}
        for layer, rows in data["times"].items():
            for weight_bits, input_bits, inputs, outputs, value in rows:
                times.setdefault(layer, {}).setdefault((weight_bits, input_bits), {})[inputs, outputs] = value
        shapes = {name: _shape(shape) for name, shape in data["shapes"].items()}
        return MeasuredLatency(shapes, times, LatencyCoefficients(**data["weights"]))


def grouped(shape: LayerShape) -> bool:
    """Whether a layer's input channels are as many as its output channels, since each has its own (a depthwise one)."""
    return shape.groups > 1 and shape.groups == shape.in_channels == shape.out_channels


def alignment(count: int) -> int:
    """Return the largest of :data:`ALIGNMENTS` that ``count`` is a multiple of."""
    return next(step for step in ALIGNMENTS if count % step == 0)


def _shape(data: Mapping[str, Any]) -> LayerShape:
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return LayerShape(**plain)


def _written(shape: LayerShape) -> float:
    strides = math.prod(shape.stride)
    size = math.prod(shape.size)
    return size * strides if shape.kind == "conv_transpose" else size / strides


def _between(counts: Sequence[int], wanted: int) -> list[tuple[int, float]]:
    """Return the counts nearest to ``wanted`` on both sides, among those of its kind where there are any, and their shares."""
    alike = [count for count in counts if alignment(count) == alignment(wanted)] or list(counts)
    below = max((count for count in alike if count <= wanted), default=alike[0])
    above = min((count for count in alike if count >= wanted), default=alike[-1])
    if above == below:
        return [(below, 1.0)]
    share = (wanted - below) / (above - below)
    return [(below, 1.0 - share), (above, share)]
