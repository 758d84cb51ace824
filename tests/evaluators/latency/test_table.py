from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evaluators.latency.backends.base import Conditions, LatencyError
from evaluators.latency.layer_cache import LayerCache
from evaluators.latency.table import channel_counts, fitted, measure_table, resized
from evaluators.latency.timers import LayerRequest, LocalTimer
from spaces.latency.layer_latency import Beside, MeasuredLatency, OpenLayer, total
from spaces.layers.shapes import LayerShape

CONV = LayerShape("conv", 16, 32, (8, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
QUICK = Conditions(warmup=1, repetitions=5)
KINDS = [
    CONV,
    LayerShape("conv", 8, 8, (8, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), groups=8),
    LayerShape("conv", 8, 16, (8, 8), (3, 3), (1, 1), (1, 1, 2, 2), (1, 1), groups=4),
    LayerShape("conv", 4, 8, (32,), (5,), (1,), (2, 2), (1,)),
    LayerShape("conv_transpose", 8, 4, (4, 4), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    LayerShape("linear", 32, 10, ()),
    LayerShape("linear", 32, 16, (7,)),
]


class Counting:
    """Takes as many milliseconds as there are pairs of channels, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        self.asked += [request.key for request in requests]
        return [float(one.shape.in_channels * one.shape.out_channels) for one in requests]


@pytest.mark.parametrize("shape", KINDS, ids=lambda shape: f"{shape.kind}{len(shape.size)}d-groups{shape.groups}")
@pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
def test_every_kind_of_layer_is_timed_by_itself(shape: LayerShape, backend: str) -> None:
    requests = [LayerRequest(shape, 32, 32, batch_size) for batch_size in (1, 2)]
    found = LocalTimer().time_layers(requests, Conditions(backend=backend, warmup=1, repetitions=5))  # type: ignore[arg-type]
    assert all(0.0 < value < 100.0 for value in found)


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (8, 32), (3, 6)])
def test_layers_with_few_bits_are_timed_in_onnx_runtime(bits: tuple[int, int]) -> None:
    for shape in (CONV, KINDS[-1], KINDS[-2]):
        (found,) = LocalTimer().time_layers([LayerRequest(shape, *bits, 1)], QUICK)
        assert 0.0 < found < 100.0


def test_bits_change_nothing_in_eager_pytorch_and_are_refused() -> None:
    with pytest.raises(LatencyError, match="8-bit weights needs backend: onnxruntime"):
        LocalTimer().time_layers([LayerRequest(CONV, 8, 8, 1)], Conditions(backend="eager", warmup=1, repetitions=5))


def test_some_counts_of_every_kind_are_measured_the_fewest_and_the_most_among_them() -> None:
    assert channel_counts(64, 8, 4) == [8, 16, 24, 32, 40, 48, 56, 64]
    assert channel_counts(512, 16, 3) == [16, 272, 512]
    found = channel_counts(64, 1, 2)
    assert found == [1, 4, 8, 16, 56, 60, 63, 64]
    assert channel_counts(10, 8, 2) == [8, 10]


def test_layers_are_resized_with_their_groups() -> None:
    assert resized(CONV, 5, 7).groups == 1
    depthwise = resized(KINDS[1], 3, 5)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (5, 5, 5)
    assert resized(KINDS[2], 6, 12).groups == 2


def test_what_was_measured_once_is_not_measured_again(tmp_path: Path) -> None:
    layers = {"one": OpenLayer(CONV, True, True, 8), "other": OpenLayer(CONV, False, True, 8)}
    timer = Counting()
    cache = LayerCache(str(tmp_path), "a processor", QUICK)
    table = measure_table(layers, 4, 1, QUICK, timer, cache)  # type: ignore[arg-type]
    assert len(timer.asked) == len(set(timer.asked)) == 2 * 4
    assert table.of("one", 8, 24, 32, 32) == 8.0 * 24.0
    again = Counting()
    assert measure_table(layers, 4, 1, QUICK, again, LayerCache(str(tmp_path), "a processor", QUICK)) == table  # type: ignore[arg-type]
    assert not again.asked
    measure_table(layers, 4, 1, QUICK, again, LayerCache(str(tmp_path), "another", QUICK))  # type: ignore[arg-type]
    assert len(again.asked) == 8


def test_a_damaged_cache_is_measured_anew_and_other_runs_entries_stay(tmp_path: Path) -> None:
    cache = LayerCache(str(tmp_path), "a processor", QUICK)
    cache.path.parent.mkdir(exist_ok=True)
    cache.path.write_text("{torn")
    first, second = (LayerCache(str(tmp_path), "a processor", QUICK) for _ in range(2))
    assert first.get("x") is None
    first.add({"x": 1.0})
    second.add({"y": 2.0})
    assert LayerCache(str(tmp_path), "a processor", QUICK).get("x") == 1.0
    stored = json.loads(cache.path.read_text())
    assert stored["machine"] == "a processor"
    assert stored["milliseconds"] == {"x": 1.0, "y": 2.0}


def test_whole_networks_tell_what_lies_between_their_layers() -> None:
    rng = np.random.default_rng(0)
    grid = {(one, other): one * other / 500.0 for one in (8, 16) for other in (8, 16, 24, 32)}
    table = MeasuredLatency({"a": CONV, "b": CONV}, {name: {(32, 32): grid} for name in "ab"})
    loads = [{name: (int(rng.choice([8, 16])), int(rng.choice([8, 16, 24, 32])), 32, 32) for name in "ab"} for _ in range(8)]
    own = [sum(table.of(name, *load) for name, load in network.items()) for network in loads]
    found = fitted(table, loads, [1.1 * value + 0.3 for value in own])
    for network, value in zip(loads, own, strict=True):
        assert total(found, network) == pytest.approx(1.1 * value + 0.3, rel=0.02)
    coefficients = dict(vars(found.coefficients))
    assert coefficients.pop("ms_per_part") == {}
    assert min(coefficients.values()) >= 0.0


def test_where_parts_can_not_be_told_apart_layers_take_what_they_took_alone() -> None:
    grid = {(16, 32): 2.0}
    table = MeasuredLatency({"a": CONV}, {"a": {(32, 32): grid}})
    found = fitted(table, [{"a": (16, 32, 32, 32)}] * 2, [3.0, 3.0])
    assert found.coefficients.ms_per_layer_ms == pytest.approx(1.0, abs=0.5)
    assert total(found, {"a": (16, 32, 32, 32)}) == pytest.approx(3.0, rel=0.02)


def test_products_and_branches_are_told_from_layers_by_whole_networks(tmp_path: Path) -> None:
    cache = LayerCache(str(tmp_path), "here", QUICK)
    layers = {name: OpenLayer(LayerShape("linear", 16, 32, (7,)), outputs=True) for name in ("q", "up")}
    table = measure_table(layers, 4, 1, QUICK, Counting(), cache)
    networks = [
        ({"q": (16, heads, 32, 32), "up": (16, 32, 32, 32)}, Beside(heads / 10, {"Attention": attention, "Mlp": mlp}))
        for heads in (8, 16, 32)
        for attention in (1, 3)
        for mlp in (0, 2)
    ]

    def truth(load: dict[str, tuple[int, int, int, int]], beside: Beside) -> float:
        layer = sum(one * other for one, other, *_ in load.values())
        return layer + 20.0 * beside.products + 50.0 * beside.parts["Attention"] + 30.0 * beside.parts["Mlp"] + 5.0

    loads, besides = [load for load, _ in networks], [beside for _, beside in networks]
    found = fitted(table, loads, [truth(*one) for one in networks], besides)
    assert found.coefficients.ms_per_part == pytest.approx({"Attention": 50.0, "Mlp": 30.0}, rel=0.05)
    again = MeasuredLatency.from_json(json.loads(json.dumps(found.to_json())))
    for load, beside in networks:
        assert total(again, load, beside) == pytest.approx(truth(load, beside), rel=0.02)
