from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.latency.layer_latency import LatencyCoefficients, MeasuredLatency, alignment, total
from spaces.layers.shape_inference import layer_shapes
from spaces.layers.shapes import LayerShape
from spaces.networks import digits_cnn, resnet20

FLOAT = (32, 32)


def table(counts: list[int], size: tuple[int, ...] = (4, 4), **coefficients: float) -> MeasuredLatency:
    """Return a table of one layer whose milliseconds are the product of its channels."""
    shape = LayerShape("conv", max(counts), max(counts), size, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    grid = {(one, other): float(one * other) for one in counts for other in counts}
    return MeasuredLatency({"layer": shape}, {"layer": {FLOAT: grid}}, LatencyCoefficients(**coefficients))


@given(st.integers(16, 64), st.integers(16, 64))
def test_between_counts_of_one_kind_lines_are_drawn(one: int, other: int) -> None:
    counts = [16, 64, 24, 56, 20, 60, 17, 63]
    found = table(counts).of("layer", one, other, *FLOAT)
    nearest = [[count for count in counts if alignment(count) == alignment(wanted)] for wanted in (one, other)]
    clamped = [min(max(wanted, min(alike)), max(alike)) for wanted, alike in zip((one, other), nearest, strict=True)]
    # A product is linear in each of its factors, so that bilinear interpolation is exact.
    assert found == pytest.approx(clamped[0] * clamped[1])


def test_a_count_of_another_kind_is_not_looked_at() -> None:
    latency = table([8, 16, 24])
    latency.times["layer"][FLOAT][16, 16] = 1.0  # type: ignore[index]
    assert latency.of("layer", 16, 16, *FLOAT) == 1.0
    assert latency.of("layer", 8, 24, *FLOAT) == 8.0 * 24.0
    # 12 is a multiple of 4 only: there is none of its kind, so that its neighbours tell.
    assert latency.of("layer", 12, 24, *FLOAT) == pytest.approx(12.0 * 24.0)


def test_a_networks_latency_is_made_of_layers_data_weights_and_a_fixed_part() -> None:
    latency = table([8, 16], ms_per_layer_ms=2.0, ms_per_million_outputs=1000.0, ms_per_megabyte=1e6, fixed=0.5)
    expected = 2.0 * 8 * 16 + 1000.0 * (16 * 16 / 1e6) + 1e6 * (9 * 8 * 16 * 4 / 1e6)
    assert latency.of("layer", 8, 16, *FLOAT) == pytest.approx(expected)
    assert total(latency, {"layer": (8, 16, 32, 32), "unknown": (1, 1, 32, 32)}) == pytest.approx(0.5 + expected)


def test_it_reads_back_from_json() -> None:
    latency = table([8, 16], ms_per_layer_ms=2.0, fixed=0.5)
    again = MeasuredLatency.from_json(json.loads(json.dumps(latency.to_json())))
    assert again == latency
    assert again.fixed == 0.5
    assert again.of("layer", 12, 16, *FLOAT) == latency.of("layer", 12, 16, *FLOAT)


def test_shapes_are_those_of_the_layers_as_they_are_run() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2))
            self.same = nn.Conv2d(8, 8, (1, 3), padding="same", groups=8)
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.head = nn.Linear(4, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            values = self.same(self.same(self.first(inputs)))
            return self.head(self.up(values).mean((2, 3)))

    model = Net().train()
    shapes = layer_shapes(model, torch.randn(1, 3, 8, 8))
    assert list(shapes) == ["first", "same", "up", "head"]
    assert shapes["first"] == LayerShape("conv", 3, 8, (8, 8), (3, 5), (2, 1), (1, 2, 1, 2), (1, 1))
    assert shapes["same"] == LayerShape("conv", 8, 8, (4, 8), (1, 3), (1, 1), (0, 1, 0, 1), (1, 1), groups=8, calls=2)
    assert shapes["up"].kind == "conv_transpose"
    assert shapes["head"] == LayerShape("linear", 4, 2, ())
    assert model.training


class Channels:
    """One millisecond per input channel, and a thousandth per output channel."""

    fixed = 100.0

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        return in_channels + out_channels / 1000.0


def test_channel_masks_know_the_channels_of_every_layer() -> None:
    model, inputs = resnet20(in_channels=1, classes=10).eval(), torch.randn(1, 1, 28, 28)
    space = ChannelMask(model, inputs, ChannelMaskSettings(round_to=8))
    candidate = space.sample(np.random.default_rng(0))
    loads = space.latency_terms(candidate)
    small = layer_shapes(space.realize(model, candidate), inputs)
    assert {name: load[:2] for name, load in loads.items()} == {
        name: (shape.in_channels, shape.out_channels) for name, shape in small.items()
    }
    assert "latency_ms" not in space.costs(candidate)
    space.use_latency(Channels())
    expected = 100.0 + sum(one + other / 1000.0 for one, other, *_ in loads.values())
    assert space.costs(candidate)["latency_ms"] == pytest.approx(expected)
    layers = space.open_layers()
    assert all(layer.step == 8 for layer in layers.values())
    first, last = next(iter(layers.values())), list(layers.values())[-1]
    assert (first.inputs, first.outputs) == (False, True)
    assert (last.inputs, last.outputs) == (True, False)


def test_bits_are_told_with_the_channels_that_do_not_change() -> None:
    model, inputs = digits_cnn(width=4).eval(), torch.randn(1, 1, 8, 8)
    space = BitWidth(model, inputs, BitWidthSettings(weight_bits=(4, 8), activation_bits=(8,)))
    candidate = space.uniform(4, 8)
    shapes = layer_shapes(model, inputs)
    edge, inner, *_ = space.latency_terms(candidate).values()
    assert edge[2:] == (8, 8)
    assert inner[2:] == (4, 8)
    assert all(
        load[:2] == (shapes[n].in_channels, shapes[n].out_channels) for n, load in space.latency_terms(candidate).items()
    )
    assert {layer.bits for layer in space.open_layers().values()} == {((8, 8),), ((4, 8), (8, 8))}
    space.use_latency(Channels())
    assert space.costs(candidate)["latency_ms"] > 100.0
