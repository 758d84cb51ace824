"""Quantized networks as ONNX: channels that have all but died, export by torch itself, and where a file differs."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from evaluators.onnx.difference import LayerOutputs, first_different
from evaluators.onnx.quantized import stored_integers
from evaluators.onnx_export import describe_difference, onnx_bytes, quiet, write_onnx
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.quantization.layers import quantized_layers
from spaces.quantization.record import pack_weights


def batch() -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def stored(bits: int = 8, dead: float | None = None) -> nn.Module:
    """Return a packed network; the weights of every second channel of its first layer are ``dead`` beside their biases."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(128, 4)).eval()
    if dead is not None:
        with torch.no_grad():
            network[1].weight[::2], network[1].bias[::2] = dead, torch.linspace(1.0, 5.0, 8)
    space = BitWidth(network, batch()[:1], BitWidthSettings(first_last_bits=None), batches=[batch()])
    return pack_weights(space.prepare(network, space.uniform(bits, 8))).requires_grad_(False)


@pytest.mark.parametrize("dead", [pytest.param(1e-8, marks=pytest.mark.slow), 1e-20, pytest.param(0.0, marks=pytest.mark.slow)])
def test_biases_of_dead_channels_fit_in_32_bits(tmp_path: Path, dead: float) -> None:
    network = stored(dead=dead)
    layer = quantized_layers(network)["0"]
    assert layer.stored is not None
    unit = layer.input_quantizer.step[0] * layer.stored.scale  # type: ignore[union-attr]
    assert float((layer.bias.abs() / unit).max()) <= 2**30 * 1.001
    expected = network(batch())
    (answer,) = write_onnx(tmp_path, network, batch())
    assert float((answer - expected).abs().max()) <= 0.01 * float(expected.abs().max())


@pytest.mark.parametrize("bits", [pytest.param(3, marks=pytest.mark.slow), 8])
def test_torch_exports_a_packed_network(tmp_path: Path, bits: int) -> None:
    network, path = stored(bits), tmp_path / "small.onnx"
    with quiet(), warnings.catch_warnings():
        torch.onnx.export(network, (batch(),), str(path), verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: batch().numpy()})[0])
    torch.testing.assert_close(answer, network(batch()), rtol=1e-4, atol=1e-4)


def test_a_bias_that_does_not_fit_is_named_with_its_layer(tmp_path: Path) -> None:
    network = stored()
    layer = quantized_layers(network)["3"]
    assert layer.stored is not None
    layer.stored.scale[5] = 1e-14
    write_onnx(tmp_path, network, batch())
    text = describe_difference(tmp_path, network, batch(), [network(batch())], 1e-3)
    assert text.startswith("layer 3: the bias of channel 5 is out of the 32 bits")


def test_the_first_layer_that_differs_is_found() -> None:
    network = stored()
    content = onnx_bytes(LayerOutputs(network, batch()).eval(), batch())
    assert first_different(LayerOutputs(network, batch()).eval(), content, batch()) is None
    quantized_layers(network)["3"].bias += 1.0
    assert first_different(LayerOutputs(network, batch()).eval(), content, batch()) == "3"


def test_the_largest_weights_of_8_bits_overflow_on_no_processor(tmp_path: Path) -> None:
    """Pairs of products of signed weights overflow 16 bits on x86 without VNNI, where this test fails if they are signed."""
    images = torch.rand(4, 16, 8, 8, generator=torch.Generator().manual_seed(0)).clamp_min(0.9)
    network = nn.Sequential(nn.Conv2d(16, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 8, 3, bias=False)).eval()
    for layer in (network[0], network[2]):
        nn.init.ones_(layer.weight)
    space = BitWidth(network, images[:1], BitWidthSettings(first_last_bits=None), batches=[images])
    packed = pack_weights(space.prepare(network, space.uniform(8, 8))).requires_grad_(False)
    (answer,) = write_onnx(tmp_path, packed, images)
    torch.testing.assert_close(answer, packed(images), rtol=0.01, atol=0.0)
    assert all(low > 120 for _, low, _ in stored_integers(tmp_path / "model.onnx").values())
