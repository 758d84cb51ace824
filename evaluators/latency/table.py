"""The table of layers: each measured once by itself at some channel counts and bits, and fitted to a few whole networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import gcd

import numpy as np

from evaluators.latency.backends import Conditions
from evaluators.latency.layer_cache import LayerCache
from evaluators.latency.timers import LayerRequest, Timer
from spaces.latency.layer_latency import ALIGNMENTS, LatencyCoefficients, Load, MeasuredLatency, OpenLayer, alignment, grouped
from spaces.layers.shapes import LayerShape

CHUNK = 64
"""Layers that are measured before those so far are kept."""

BELIEF = 0.3
"""The relative error of a network that counts as much as layers that take twice, or no part of, what they took alone."""


def measure_table(
    layers: Mapping[str, OpenLayer], points: int, batch_size: int, conditions: Conditions, timer: Timer, cache: LayerCache
) -> MeasuredLatency:
    """Return the table of a space's layers; what is in the cache is not measured again.

    Args:
        layers: The layers, and what may change in them.
        points: Channel counts that are measured of every alignment, of inputs and outputs each.
        batch_size: Samples in a run.
        conditions: How a layer is timed.
        timer: Where it is timed.
        cache: Where milliseconds are kept.
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


def fitted(table: MeasuredLatency, loads: Sequence[Mapping[str, Load]], measured: Sequence[float]) -> MeasuredLatency:
    """Return ``table`` with the weights, none below 0, that explain the latency of whole networks best (ours).

    What layers take by themselves leaves out what is between them, what a run takes in any case, and that the weights of a
    whole network do not stay in the processor's cache as those of a layer do. Relative errors count, by least squares.

    Args:
        table: The layers.
        loads: What the layers have in each of the networks.
        measured: Milliseconds of a run of each.
    """
    from scipy.optimize import nnls

    rows = []
    for network in loads:
        parts = [table.parts(name, load) for name, load in network.items()]
        rows.append([*np.sum(parts, axis=0), 1.0])
    relative = np.asarray(rows) / np.asarray(measured)[:, None]
    # A network's parts shrink together: where they can't be told apart, layers take what they took by themselves.
    columns = np.vstack([relative, [BELIEF, 0.0, 0.0, 0.0]])
    # With every column of about the same size, the solution does not hang on units.
    sizes = np.maximum(columns.max(axis=0), 1e-12)
    found, _ = nnls(columns / sizes, np.append(np.ones(len(rows)), BELIEF))
    return replace(table, weights=LatencyCoefficients(*(float(value) for value in found / sizes)))


def resized(shape: LayerShape, in_channels: int, out_channels: int) -> LayerShape:
    """Return a layer of the same shape with other channel counts, called once."""
    groups = shape.groups
    if grouped(shape):
        groups = in_channels = out_channels
    elif groups > 1:
        groups = gcd(groups, in_channels, out_channels)
    return replace(shape, in_channels=in_channels, out_channels=out_channels, groups=groups, calls=1)


def channel_counts(most: int, step: int, points: int) -> list[int]:
    """Return the channel counts to measure of a layer with ``most``: of every alignment some, evenly from few to many."""
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
