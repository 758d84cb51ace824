"""Bits are searched, trained and exported: what comes out is stored in that many, and answers as reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evaluators.onnx.quantized import stored_integers
from evaluators.tasks.measure import measure
from search.config import load
from search.export import load as load_best
from search.pipeline import run
from spaces.quantization.layers import quantized_layers
from tests.integration.tiny_pipeline import read_report, write_config

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 300, train_size: 500}
stages:
  - train: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: bit_width, weight_bits: [2, 3, 4, 8], activation_bits: [4, 8]}
      algorithm: {name: random, evaluations: 8}
      evaluate: [accuracy, cost]
      objectives: {top1: maximize}
      target: {size_bytes: "<= 20%"}
      baselines: [uniform]
      batch: 4
  - retrain: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.01}, distillation: {}}
  - export: {formats: [onnx, torch_export]}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs")
    return folder / "tiny", run(load(write_config(folder, CONFIG)), folder / "tiny", None)


def test_the_reported_bytes_are_those_of_the_file(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    file = folder / "best" / "weights.safetensors"
    tensors = load_file(file)
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == report["result"]["size_bytes"]
    assert file.stat().st_size <= report["result"]["size_bytes"] + 64 * 1024
    assert report["result"]["size_bytes"] <= 0.2 * report["reference"]["size_bytes"]
    assert report["baselines"]["uniform"]["size_bytes"] <= 0.2 * report["reference"]["size_bytes"]
    assert report["result"]["bit_operations"] < report["reference"]["bit_operations"] / 16
    assert report["result"]["macs"] == report["reference"]["macs"]
    assert report["target_met"] is True


def test_the_bits_are_the_chosen_ones_after_training_in_every_file(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    model = load_best(folder)
    layers = {layer["name"]: layer for layer in report["bits"]}
    found = {name: layer.stored.bits for name, layer in quantized_layers(model).items() if layer.stored is not None}
    assert found == {name: layer["weight_bits"] for name, layer in layers.items() if layer["weight_bits"] is not None}
    assert len(set(found.values())) > 1
    inputs = {name: layer.input_quantizer.bits for name, layer in quantized_layers(model).items() if layer.input_quantizer}
    assert inputs == {name: layers[name]["activation_bits"] for name in found}
    assert report["deployment"]["integer_layers"] + report["deployment"]["float_layers"] == len(found)
    integers = stored_integers(folder / "best" / "model.onnx")
    assert len(integers) == len(found)
    for name, (width, low, high) in integers.items():
        (layer,) = [layer for layer in found if f"{layer}." in name]
        bits = found[layer]
        assert -(2 ** (bits - 1)) <= low < high < 2 ** (bits - 1)
        assert width == min(size for size in (2, 4, 8) if size >= bits)


def test_the_network_read_back_scores_as_reported_in_all_its_forms(finished: tuple[Path, dict[str, Any]]) -> None:
    import onnxruntime

    folder, report = finished
    task = load(folder / "config.yaml").build_task()
    measured = measure(load_best(folder), task, "test")
    assert measured["top1"] == report["result"]["top1"]
    assert measured["loss"] == pytest.approx(report["result"]["loss"], rel=1e-6)
    session = onnxruntime.InferenceSession(str(folder / "best" / "model.onnx"), providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "best" / "model.pt2").module()
    model = load_best(folder)
    for inputs, _ in task.batches("test", 64):
        with torch.no_grad():
            expected = model(inputs)
        answered = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
        assert float((answered.argmax(1) != expected.argmax(1)).float().mean()) < 0.04
        assert torch.equal(program(inputs), expected)


def test_training_goes_on_from_float_weights(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    (history,) = [entry for entry in report["histories"] if entry["stage"] == "2-retrain"]
    assert len(history["epochs"]) == 2
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"] * 1.2
    weights = load_file(folder / "checkpoints" / "2-retrain" / "result" / "network.safetensors")
    steps = [name for name in weights if name.endswith("weight_quantizer.scale")]
    assert steps
    assert all(name.removesuffix("_quantizer.scale") in weights for name in steps)


@pytest.mark.slow
def test_the_same_command_again_changes_nothing_and_the_report_shows_the_bits(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    again = run(load(folder.parent / "tiny.yaml"), folder, None)
    assert again == report == read_report(folder)
    page = (folder / "report.html").read_text()
    assert "Bits per layer" in page
    assert (folder / "figures" / "bits.png").exists()
    architecture = json.loads((folder / "best" / "architecture.json").read_text())
    assert [entry["kind"] for entry in architecture["transformations"]] == ["quantize", "pack_weights"]
