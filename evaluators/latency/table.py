"""Measure the latency table: single layers at some channel counts and bits, fitted to a few whole networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import gcd

import numpy as np

from evaluators.latency.backends.base import Conditions
from evaluators.latency.layer_cache import LayerCache
from evaluators.latency.timers import LayerRequest, Timer
from spaces.latency.layer_latency import (
    ALIGNMENTS,
    Beside,
    LatencyCoefficients,
    Load,
    MeasuredLatency,
    OpenLayer,
    alignment,
    grouped,
)
from spaces.layers.shapes import LayerShape

CHUNK = 64
"""Number of layers measured between two writes of the cache."""

BELIEF = 0.3
"""Relative error of a network's latency that counts as much as a layer coefficient of 0 or 2 instead of 1."""


def measure_table(
    layers: Mapping[str, OpenLayer], points: int, batch_size: int, conditions: Conditions, timer: Timer, cache: LayerCache
) -> MeasuredLatency:
    """Return the latency table of a space's layers; layers in the cache are not measured again.

    Args:
        layers: The layers by name, with their open channel counts and bits.
        points: Number of channel counts to measure of every alignment, for inputs and outputs each.
        batch_size: Samples in a run.
        conditions: Conditions of timing a layer.
        timer: Machine that layers are timed on.
        cache: Milliseconds measured before, extended by the new ones.
    """
    wanted = {
        (name, bits, counts): LayerRequest(resized(layer.shape, *counts), *bits, batch_size)
        for name, layer in layers.items()
        for bits in layer.bits
        for counts in _counts(layer, points)
    }
    missing = list(dict.fromkeys(request for request in wanted.values() if cache.get(request.key) is None))
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        found = timer.time_layers(chunk, conditions)
        cache.add({request.key: value for request, value in zip(chunk, found, strict=True)})
    times: dict[str, dict[tuple[int, int], dict[tuple[int, int], float]]] = {}
    for (name, bits, counts), request in wanted.items():
        times.setdefault(name, {}).setdefault(bits, {})[counts] = cache[request.key]
    return MeasuredLatency({name: layer.shape for name, layer in layers.items()}, times)


def fitted(
    table: MeasuredLatency,
    loads: Sequence[Mapping[str, Load]],
    measured: Sequence[float],
    beside: Sequence[Beside] = (),
) -> MeasuredLatency:
    """Return ``table`` with the coefficients, none below 0, that fit the latency of whole networks best (ours).

    Times of single layers leave out the operations between layers, the fixed time of a run, and that the weights of a whole
    network do not stay in the processor's cache as one layer's do. The fit is by least squares of relative errors.

    Args:
        table: Times of single layers.
        loads: Channel counts and bits of the layers, by layer, for each of the networks.
        measured: Milliseconds of a run of each network.
        beside: What each network has beside its layers; nothing for an empty sequence.
    """
    from scipy.optimize import nnls

    rows = []
    kinds = list(dict.fromkeys(kind for one in beside for kind in one.parts))
    for network, own in zip(loads, beside or [Beside()] * len(loads), strict=True):
        parts = [table.parts(name, load) for name, load in network.items()]
        rows.append([*np.sum(parts, axis=0), 1.0, own.products, *(own.parts.get(kind, 0) for kind in kinds)])
    relative = np.asarray(rows) / np.asarray(measured)[:, None]
    # What no network has is left out, so that the solution does not hang on it.
    told = (relative != 0.0).any(axis=0) | (np.arange(relative.shape[1]) < 4)
    # A network's parts shrink together: where they can't be told apart, layers take what they took by themselves.
    columns = np.vstack([relative, BELIEF * (np.arange(relative.shape[1]) == 0)])[:, told]
    # With every column of about the same size, the solution does not hang on units.
    sizes = np.maximum(columns.max(axis=0), 1e-12)
    found, _ = nnls(columns / sizes, np.append(np.ones(len(rows)), BELIEF))
    coefficients = np.zeros(len(told))
    coefficients[told] = found / sizes
    own_ms, outputs, size, fixed, products, *by_kind = coefficients.tolist()
    named: dict[str, float] = dict(zip(kinds, by_kind, strict=True))
    return replace(table, coefficients=LatencyCoefficients(own_ms, outputs, size, fixed, products, named))


def resized(shape: LayerShape, in_channels: int, out_channels: int) -> LayerShape:
    """Return the shape of a layer with other channel counts, called once."""
    groups = shape.groups
    if grouped(shape):
        groups = in_channels = out_channels
    elif groups > 1:
        groups = gcd(groups, in_channels, out_channels)
    return replace(shape, in_channels=in_channels, out_channels=out_channels, groups=groups, calls=1)


def channel_counts(most: int, step: int, points: int) -> list[int]:
    """Return the channel counts up to ``most`` to measure, ascending: ``points`` of every alignment, evenly spread."""
    legal = sorted({*range(step, most + 1, step), most})
    chosen: set[int] = {most}
    for kind in ALIGNMENTS:
        alike = [count for count in legal if alignment(count) == kind]
        if alike:
            places = np.linspace(0, len(alike) - 1, min(points, len(alike)))
            chosen.update(alike[round(place)] for place in places)
    return sorted(chosen)


def _counts(layer: OpenLayer, points: int) -> Iterable[tuple[int, int]]:
    shape = layer.shape
    inputs = channel_counts(shape.in_channels, layer.step, points) if layer.inputs else [shape.in_channels]
    outputs = channel_counts(shape.out_channels, layer.step, points) if layer.outputs else [shape.out_channels]
    if grouped(shape):
        return [(count, count) for count in outputs]
    return [(one, other) for one in inputs for other in outputs]
